"""Kafka: settings as its library wants them, consuming and producing in batches, and what its errors mean. The one room
that imports confluent-kafka; servers, sinks and batch jobs use it.
"""
