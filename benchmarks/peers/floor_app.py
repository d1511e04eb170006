"""The raw ASGI floor: parse V2 JSON, run ONNX, answer; no routing, validation, errors or metrics."""

import os

import numpy as np
import onnxruntime
import orjson

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(f"{os.environ['MODELS']}/{os.environ['MODEL']}", options)
name = session.get_inputs()[0].name


async def app(scope, receive, send):
    if scope["type"] != "http":
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.startup":
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    tensor = orjson.loads(body)["inputs"][0]
    labels, scores = session.run(None, {name: np.array(tensor["data"], np.float32).reshape(tensor["shape"])})
    answer = orjson.dumps({"model_name": "floor", "outputs": [
        {"name": "label", "datatype": "INT64", "shape": list(labels.shape), "data": labels.ravel().tolist()},
        {"name": "probabilities", "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel().tolist()},
    ]})  # fmt: skip
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
