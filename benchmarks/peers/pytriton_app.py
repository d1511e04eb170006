"""PyTriton: Triton's front, the model in Python.

Usage: pytriton_app.py HTTP_PORT GRPC_PORT NAME FILE
"""

import os
import sys
import sysconfig

if "BENCHMARK_LIBRARY" not in os.environ:  # Triton's stub must load this interpreter's own libpython
    library = sysconfig.get_config_var("LIBDIR")
    os.environ |= {"LD_LIBRARY_PATH": library, "BENCHMARK_LIBRARY": library}
    os.execv(sys.executable, [sys.executable, *sys.argv])

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from peers.engine import load

http_port, grpc_port, name, path = sys.argv[1:]
answer = load(path)


@batch
def infer(X):  # noqa: N803 - the tensor's name
    return {"label": answer(X)[:, None]}


with Triton(
    config=TritonConfig(http_port=int(http_port), grpc_port=int(grpc_port), allow_metrics=False, log_verbose=0)
) as triton:
    triton.bind(
        name, infer, inputs=[Tensor(name="X", dtype=np.float32, shape=(784,))],
        outputs=[Tensor(name="label", dtype=np.int64, shape=(1,))], config=ModelConfig(max_batch_size=64),
    )  # fmt: skip
    triton.serve()
