"""The backend that is this very process: units become models, pipelines and splits of the routing table."""
