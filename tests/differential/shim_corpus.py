"""What code can ask of the `mlserver` package it imports: expressions, evaluated by one interpreter, printed as JSON.

`shim.py` runs this with the original and with ours, in a folder of its own, and compares.
"""

# Functions under test are written as older code writes them, and the expressions name what seems unused.
# ruff: noqa: E402, E743, F401, F403, F405, N802, UP006, UP007, UP035, UP037, UP045, BLE001, SIM905

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib
import inspect
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

import mlserver
from mlserver import MLModel, ModelSettings, Settings
from mlserver.codecs import *
from mlserver.codecs import InputCodec, RequestCodec, decode_args
from mlserver.codecs.base import (
    find_input_codec,
    find_request_codec,
    register_input_codec,
    register_request_codec,
)
from mlserver.codecs.json import *
from mlserver.codecs.json import encode_to_json, encode_to_json_bytes
from mlserver.codecs.lists import *
from mlserver.codecs.numpy import convert_nan, to_datatype, to_dtype
from mlserver.codecs.string import *
from mlserver.codecs.utils import *
from mlserver.context import model_context
from mlserver.handlers.custom import CustomHandler, custom_handler, get_custom_handlers
from mlserver.raw import *
from mlserver.repository import *
from mlserver.repository import SchemalessModelRepository
from mlserver.settings import *
from mlserver.types import *
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, RequestInput, ResponseOutput
from mlserver.utils import *
from mlserver.utils import get_model_uri

MODULES = (
    "mlserver mlserver.version mlserver.types mlserver.types.base mlserver.types.dataplane "
    "mlserver.types.model_repository mlserver.codecs mlserver.codecs.base mlserver.codecs.numpy "
    "mlserver.codecs.pandas mlserver.codecs.string mlserver.codecs.base64 mlserver.codecs.datetime "
    "mlserver.codecs.json mlserver.codecs.errors mlserver.codecs.utils mlserver.codecs.decorator "
    "mlserver.codecs.lists mlserver.utils mlserver.errors mlserver.logging mlserver.handlers mlserver.handlers.custom "
    "mlserver.metrics mlserver.metrics.registry mlserver.metrics.context mlserver.metrics.errors mlserver.settings "
    "mlserver.model mlserver.context mlserver.repository mlserver.repository.repository mlserver.repository.factory "
    "mlserver.repository.load mlserver.rest.responses mlserver.rest.requests mlserver.rest.errors mlserver.raw"
).split()

nan = float("nan")
E = "mlserver.MLModel"
ms = ModelSettings(name="m", implementation=MLModel)
m = MLModel(ms)


def RI(data: Any, datatype: str, shape: Any, **parameters: Any) -> RequestInput:
    return RequestInput(name="x", shape=shape, datatype=datatype, data=data, parameters=parameters or None)


def I(name: str, data: Any, datatype: str = "FP32", shape: Any = None, **parameters: Any) -> RequestInput:
    shape = shape or [len(data)]
    return RequestInput(name=name, shape=shape, datatype=datatype, data=data, parameters=parameters or None)


def R(*inputs: RequestInput, **rest: Any) -> InferenceRequest:
    return InferenceRequest(inputs=list(inputs), **rest)


def MS(uri: Any = None, source: Any = None) -> ModelSettings:
    settings = ModelSettings(name="m", implementation=E, parameters={"uri": uri} if uri is not None else None)
    settings._source = source
    return settings


def gu(*args: Any, **kwargs: Any) -> str:
    return asyncio.run(get_model_uri(*args, **kwargs))


def rt(frame: pd.DataFrame) -> Any:
    back = PandasCodec.decode_response(PandasCodec.encode_response("m", frame))
    return back.to_dict("list"), {name: str(dtype) for name, dtype in back.dtypes.items()}


def call(predict: Any, request: InferenceRequest) -> Any:
    class Model(MLModel):
        pass

    Model.predict = decode_args(predict)
    return asyncio.run(Model(ms).predict(request))


async def f1(self, x: np.ndarray) -> np.ndarray:
    return x * 2


async def f2(self, x: np.ndarray, y: Optional[np.ndarray] = None) -> np.ndarray:
    return x if y is None else x + y


async def f3(self, x: List[str]) -> List[str]:
    return x


async def f4(self, x: np.ndarray, s: List[str]) -> Tuple[np.ndarray, List[str]]:
    return x, s


async def f5(self, df: pd.DataFrame) -> pd.DataFrame:
    return df


async def f6(self, df: pd.DataFrame, s: List[str]) -> np.ndarray:
    return df.to_numpy()


async def f7(self, x) -> np.ndarray:
    return x


async def f8(self, x: np.ndarray):
    return x


async def f9(self, x: List[bytes]) -> List[bytes]:
    return x


async def f10(self, x: List[datetime]) -> List[str]:
    return ["a"]


async def f11(self, x: np.ndarray) -> List[str]:
    return x


async def f12(self, x: np.ndarray) -> Tuple[np.ndarray]:
    return (x,)


async def f13(self, x: np.ndarray) -> Tuple[np.ndarray, pd.DataFrame]:
    return x, pd.DataFrame({"q": [1]})


async def f14(self, x: np.ndarray) -> Optional[np.ndarray]:
    return None


async def f15(self, x: np.ndarray) -> np.ndarray:
    return [x, x]


async def f16(self, x: np.ndarray) -> np.ndarray:
    return (x, x)


async def f17(self, x: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    return x


async def f18(self, x: np.ndarray) -> InferenceResponse:
    return InferenceResponse(model_name="q", outputs=[])


def f19(self, x: np.ndarray) -> np.ndarray:
    return x


async def f20(self, x: int) -> np.ndarray:
    return x


async def f21(self, x: np.ndarray) -> int:
    return 3


async def f22(self, x: "np.ndarray") -> "np.ndarray":
    return x


async def f23(self, x: list[str]) -> list[str]:
    return x


async def f24(self, x: np.ndarray) -> Union[np.ndarray, List[str]]:
    return x


async def f25(self, x: np.ndarray | None = None) -> np.ndarray:
    return np.array([1]) if x is None else x


async def f26(self, x: List[Union[str, datetime]]) -> List[Union[str, datetime]]:
    return x


async def f27(self, x: np.ndarray) -> Tuple[np.ndarray, Optional[List[str]]]:
    return x, None


async def f28(self, x: np.ndarray) -> Tuple[np.ndarray, ...]:
    return x, x


async def f29(self, *, x: np.ndarray) -> np.ndarray:
    return x


async def f30(self) -> np.ndarray:
    return np.array([1])


async def f31(self, x: np.ndarray) -> None:
    return None


async def f32(self, inference_request: InferenceRequest) -> np.ndarray:
    return np.array([1])


async def f33(self, x: np.ndarray, k: int = 3) -> np.ndarray:
    return x


class MyCodec(InputCodec):
    ContentType = "my"
    TypeHint = dict

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, dict)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        return ResponseOutput(name=name, shape=[1], datatype="BYTES", data=[str(payload)])

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        return {"d": request_input.data.root}


class MyRequestCodec(RequestCodec):
    ContentType = "mr"

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, dict)

    @classmethod
    def encode_response(cls, model_name: str, payload: Any, model_version: Any = None, **kwargs: Any) -> Any:
        outputs = [MyCodec.encode_output(name, value) for name, value in payload.items()]
        return InferenceResponse(model_name=model_name, outputs=outputs)

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        return {tensor.name: get_decoded_or_raw(tensor) for tensor in request.inputs}


class Old(InputCodec):
    ContentType = "old"

    @classmethod
    def encode(cls, name: str, payload: Any) -> Any:
        return "E"


async def g1(self, d: dict) -> dict:
    return {"o": d}


class CM(MLModel):
    @custom_handler(rest_path="/b", rest_method="GET")
    async def bb(self, r: int):
        return r

    @custom_handler("/a")
    def aa(self):
        pass


class CN(CM):
    async def bb(self, r):
        return 3


def streamed() -> Any:
    class Echo(MLModel):
        async def predict(self, payload):
            return InferenceResponse(model_name="m", outputs=[], id=payload.id)

    async def requests():
        yield R(id="1")
        yield R(id="2")

    async def answers():
        return [answer async for answer in Echo(ms).predict_stream(requests())]

    return asyncio.run(answers())


def logged(**values: Any) -> Any:
    with model_context(ModelSettings(name="q", implementation=MLModel, parameters={"version": "3"})):
        return mlserver.log(**values)


def saved() -> Any:
    request = R(I("x", [1], content_type="np"), I("y", [1, 2]), parameters={"content_type": "pd"})
    m.decode_request(request)
    first = request.inputs[0].parameters
    return first.model_extra, repr(first), request.model_dump(), request.json(), has_decoded(request.inputs[0])


def data_set(value: Any) -> Any:
    tensor = RI([1], "FP32", [1])
    tensor.data = value
    return tensor, type(tensor.data).__name__, NumpyCodec.decode_input(tensor)


def listed(name: Any = None) -> Any:
    repository = SchemalessModelRepository("repository")
    found = asyncio.run(repository.list() if name is None else repository.find(name))
    rows = [(s.name, os.path.relpath(s.parameters.uri), s.version, os.path.relpath(s._source)) for s in found]
    return sorted(rows, key=str)


def error(kind: str, *args: Any, **kwargs: Any) -> Any:
    module, _, name = kind.rpartition(".")
    made = getattr(importlib.import_module(module), name)(*args, **kwargs)
    return str(made), made.args, made.status_code, [base.__name__ for base in type(made).__mro__]


async def _handled(exception: Any) -> Any:
    from mlserver.rest.errors import handle_mlserver_error

    answer = await handle_mlserver_error(None, exception)
    return answer.status_code, answer.body


@contextlib.contextmanager
def environment(**variables: str) -> Any:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def env(expression: str, **variables: str) -> Any:
    with environment(**variables):
        return eval(expression, globals())


x = I("x", [1, 2])
b = I("x", ["a", "b"], "BYTES")

TYPES = r"""
RI([1,2],'FP32',[2])
RI([1,2],'FP32',[2]).model_dump()
RI([1,2],'FP32',[2]).dict()
RI([1,2],'FP32',[2]).json()
RI([1,2],'FP32',[2]).model_dump_json()
RI([1,2],'FP32',[2],a=1).model_dump()
RI([1,2],'FP32',[2]).data
RI([1,2],'FP32',[2]).data[0]
list(RI([1,2],'FP32',[2]).data)
RI([1,2],'FP32',[2]).datatype
type(RI([1,2],'FP32',[2]).datatype)
RequestInput(name='x',shape=[1],datatype=Datatype.FP32,data=[1]).datatype
RequestInput(name='x',shape=(1,),datatype=Datatype.FP32,data=(1,))
RequestInput(name='x',shape=[1],datatype=Datatype.FP32,data='abc').data
RequestInput(name='x',shape=[1],datatype=Datatype.FP32,data=b'abc').data
RequestInput(name='x',shape=[1],datatype=Datatype.FP32,data=TensorData([1])).data
RequestInput(name='x',shape=[1],datatype=Datatype.FP32,data=TensorData(root=[1])).data
RequestInput(name='x',shape=[1],datatype=Datatype.FP32,data=np.array([1,2])).data
RequestInput(name='x',shape=[1],datatype='FOO',data=[1])
RequestInput(name='x',shape=['1'],datatype='FP32',data=[1])
RequestInput(name='x',shape=[1.5],datatype='FP32',data=[1])
RequestInput(name='x',shape=np.array([1,2]).shape,datatype='FP32',data=[1])
RequestInput(name='x',shape=[np.int64(3)],datatype='FP32',data=[1])
RequestInput(name='x',shape=[1],datatype='FP32')
RequestInput(name=1,shape=[1],datatype='FP32',data=[])
RequestInput(name='x',shape=[1],datatype='FP32',data=[1],zzz=3)
RequestInput(name='x',shape=[1],datatype='FP32',data=[1],parameters={'content_type':'np','foo':[1]})
RequestInput(name='x',shape=[1],datatype='FP32',data=[1],parameters=Parameters(content_type='np'))
TensorData([1,2])==TensorData([1,2])
TensorData([1,2])==[1,2]
TensorData([1,2])
str(TensorData([1,2]))
TensorData([1,2]).model_dump()
TensorData([1,2]).model_dump_json()
TensorData(root=[1,2]).root
TensorData((1,2)).root
len(TensorData([1,2]))
TensorData([[1],[2]])[0:1]
TensorData.model_validate([1])
TensorData.parse_obj([1])
TensorData(np.array([1,2]))
TensorData([1]).copy()
TensorData([1]).model_copy(deep=True)
bool(TensorData([]))
1 in TensorData([1])
TensorData('abc')[0]
TensorData(b'abc')
TensorData(None)
TensorData()
Parameters(a=1)
Parameters(a=1).a
Parameters(a=1).b
Parameters(a=1).model_dump()
Parameters(headers={'a':1}).dict()
Parameters(content_type=None).model_dump()
Parameters(content_type=3)
Parameters(a=Datatype.FP32).model_dump()
Parameters(**{'x-y':1}).model_extra
Parameters(a=1)==Parameters(a=1)
InferenceRequest(inputs=[])
InferenceRequest(inputs=[RI([1],'FP32',[1])]).model_dump()
InferenceRequest(inputs=[RI([1],'FP32',[1])]).model_dump(exclude_unset=False)
InferenceRequest(inputs=[RI([1],'FP32',[1])]).model_dump(exclude_none=False)
InferenceRequest(inputs=[RI([1],'FP32',[1])]).json()
InferenceRequest.parse_obj({'inputs':[{'name':'a','shape':[1],'datatype':'BYTES','data':['a']}],'outputs':[{'name':'z'}]})
InferenceRequest.parse_raw('{"inputs":[]}')
InferenceRequest.model_validate_json('{"inputs":[]}')
InferenceRequest(inputs=[{'name':'a','shape':[1],'datatype':'BYTES','data':[b'a']}]).model_dump()
InferenceRequest(inputs=[{'name':'a','shape':[1],'datatype':'BYTES','data':[b'a']}]).model_dump_json()
InferenceResponse(model_name='m',outputs=[])
InferenceResponse(outputs=[])
InferenceResponse(model_name='m',model_version=None,outputs=[]).model_dump()
MetadataTensor(name='a',datatype='FP32',shape=[-1])
MetadataModelResponse(name='a',platform='')
State.READY
RepositoryIndexResponse([RepositoryIndexResponseItem(name='a',state='READY',reason='')])
RepositoryIndexResponse(root=[]).model_dump()
Datatype('FP32')
Datatype.FP32 == 'FP32'
str(Datatype.FP32)
InferenceRequest.model_json_schema()['properties'].keys()
InferenceResponse(model_name='m',outputs=[{'name':'a','shape':[1],'datatype':'FP32','data':np.array([1])}]).model_dump()
InferenceResponse(model_name='m',outputs=[{'name':'a','shape':[1],'datatype':'FP32','data':np.array([1])}]).outputs[0].data[0]
InferenceResponse(model_name='m',outputs=[{'name':'a','shape':[1],'datatype':'FP32','data':np.array([1])}]).outputs[0].data.root.tolist()
ResponseOutput(name='a',shape=[1],datatype='FP32',data=[np.float32(1)])
ResponseOutput(name='a',shape=[1],datatype='FP32',data=[1]).model_dump_json()
TensorData.model_json_schema()
TensorData([1]).dict()
TensorData([1]).json()
TensorData([1]).__dict__, vars(TensorData([1]))
TensorData([1,2])[-1], [*TensorData([1,2])], np.array(TensorData([1,2])), np.asarray(TensorData([[1,2],[3,4]])).shape, pd.Series(TensorData([1,2])).tolist(), list(reversed(TensorData([1,2]))), sum(TensorData([1,2])), list(zip(TensorData([1]),TensorData([2])))
InferenceRequest.construct(inputs=[x]).inputs[0].data
InferenceResponse.model_validate(InferenceResponse(model_name='m',outputs=[]))
InferenceResponse(model_name='m', outputs=[x])
"""

NUMPY = r"""
NumpyCodec.can_encode(np.array([1]))
NumpyCodec.can_encode([1])
NumpyCodec.encode_output('a',np.array([1,2]))
NumpyCodec.encode_output('a',np.array([[1,2],[3,4]],dtype=np.float32))
NumpyCodec.encode_output('a',np.array(3))
NumpyCodec.encode_output('a',np.float32(3))
NumpyCodec.encode_output('a',np.zeros((0,2)))
NumpyCodec.encode_output('a',np.array([1.0,nan]))
NumpyCodec.encode_output('a',np.array([1.0,np.inf]))
NumpyCodec.encode_output('a',np.array(['a','bcd']))
NumpyCodec.encode_output('a',np.array([['a','bcd']]))
NumpyCodec.encode_output('a',np.array([b'a',b'bcd']))
NumpyCodec.encode_output('a',np.array(['a','bcd'],dtype=object))
NumpyCodec.encode_output('a',np.array([1,'bcd',None],dtype=object))
NumpyCodec.encode_output('a',np.array([b'x'],dtype=object))
NumpyCodec.encode_output('a',np.array([1.5,nan,None],dtype=object))
NumpyCodec.encode_output('a',np.array([True,False]))
NumpyCodec.encode_output('a',np.array([1],dtype='float16'))
NumpyCodec.encode_output('a',np.array([1],dtype='uint64'))
NumpyCodec.encode_output('a',np.array([1],dtype='complex64'))
NumpyCodec.encode_output('a',np.array(['2020-01-01'],dtype='datetime64[ns]'))
NumpyCodec.encode_output('a',[1,2])
NumpyCodec.encode_output('a',np.array([1],dtype='>i4'))
NumpyCodec.encode_input('a',np.array([1,2]))
NumpyCodec.encode_input('a',np.array([b'ab',b'cd']))
NumpyCodec.encode_input('a',np.array([1.0,nan]))
NumpyCodec.decode_input(RI([1,2,3,4],'FP32',[2,2]))
NumpyCodec.decode_input(RI([[1,2],[3,4]],'FP32',[2,2]))
NumpyCodec.decode_input(RI([1,2,3],'FP32',[2,2]))
NumpyCodec.decode_input(RI([1,None],'FP32',[2]))
NumpyCodec.decode_input(RI([1,None],'FP64',[2]))
NumpyCodec.decode_input(RI([1,None],'INT64',[2]))
NumpyCodec.decode_input(RI([1.5],'INT64',[1]))
NumpyCodec.decode_input(RI([300],'UINT8',[1]))
NumpyCodec.decode_input(RI(['1'],'INT64',[1]))
NumpyCodec.decode_input(RI([True,0],'BOOL',[2]))
NumpyCodec.decode_input(RI(['true'],'BOOL',[1]))
NumpyCodec.decode_input(RI(['a','bcd'],'BYTES',[2]))
NumpyCodec.decode_input(RI(['a','bcd'],'BYTES',[2,1]))
NumpyCodec.decode_input(RI([b'a',b'bcd'],'BYTES',[2]))
NumpyCodec.decode_input(RI([b'a',b'bcd'],'BYTES',[2,1]))
NumpyCodec.decode_input(RI(b'abcd','BYTES',[2,2]))
NumpyCodec.decode_input(RI('abcd','BYTES',[2,2]))
NumpyCodec.decode_input(RI([b'abcd'],'BYTES',[2,2]))
NumpyCodec.decode_input(RI(['a','b'],'BYTES',[2],content_type='str'))
NumpyCodec.decode_input(RI([b'a',b'b'],'BYTES',[2],content_type='str'))
NumpyCodec.decode_input(RI([b'a',b'b'],'BYTES',[2,1],content_type='np'))
NumpyCodec.decode_input(RI([],'FP32',[0]))
NumpyCodec.decode_input(RI([1,2],'FP32',[-1]))
NumpyCodec.decode_input(RI([1,2],'FP32',[-1,2]))
NumpyCodec.decode_input(RI([1,2],'FP32',[]))
NumpyCodec.decode_input(RI([1],'FP32',[]))
NumpyCodec.decode_input(RI(5,'FP32',[1]))
NumpyCodec.decode_input(RI([1,2],'FP16',[2]))
NumpyCodec.decode_input(RI([1,None],'BYTES',[2]))
NumpyCodec.decode_output(NumpyCodec.encode_output('a',np.array([b'ab',b'cd'])))
NumpyCodec.decode_output(NumpyCodec.encode_output('a',np.array(['ab','cde'])))
NumpyCodec.decode_output(NumpyCodec.encode_output('a',np.array([1.0,nan])))
NumpyCodec.decode_output(NumpyCodec.encode_output('a',np.array(['ab','cde'],dtype=object)))
NumpyCodec.decode_output(NumpyCodec.encode_output('a',np.array(2.5)))
to_datatype(np.dtype('float32'))
to_datatype(np.dtype('<U3'))
to_datatype(np.dtype('S3'))
to_datatype(np.dtype('O'))
to_datatype(np.dtype('M8[ns]'))
to_dtype(RI([1],'FP32',[1]))
to_dtype(RI([b'a'],'BYTES',[1]))
to_dtype(RI(['a'],'BYTES',[1]))
to_dtype(RI(['a'],'BYTES',[2,5]))
to_dtype(RI(['a'],'BYTES',[2,5],content_type='str'))
to_dtype(RI(b'a','BYTES',[2,5]))
to_dtype(RI([1],'FP32',[1])).__class__
convert_nan(nan)
convert_nan(1.0)
convert_nan('a')
convert_nan(None)
NumpyRequestCodec.encode_response('m',np.array([1]))
NumpyRequestCodec.encode_response('m',np.array([1]),'v1')
NumpyRequestCodec.encode_request(np.array([1]))
NumpyRequestCodec.decode_request(NumpyRequestCodec.encode_request(np.array([1])))
NumpyRequestCodec.decode_request(InferenceRequest(inputs=[RI([1],'FP32',[1]),RI([1],'FP32',[1])]))
NumpyRequestCodec.decode_request(InferenceRequest(inputs=[]))
NumpyRequestCodec.decode_response(NumpyRequestCodec.encode_response('m',np.array([1])))
NumpyRequestCodec.decode_response(InferenceResponse(model_name='m',outputs=[]))
NumpyRequestCodec.can_encode(np.array([1]))
NumpyRequestCodec.TypeHint
NumpyRequestCodec.decode_request(InferenceRequest(inputs=[RI(['a'],'BYTES',[1],content_type='str')]))
NumpyRequestCodec.decode_request(InferenceRequest(inputs=[RI(['YQ=='],'BYTES',[1],content_type='base64')]))
NumpyRequestCodec.decode_request(InferenceRequest(inputs=[RI([1],'FP32',[1],content_type='zzz')]))
"""

BYTES = r"""
NumpyCodec.decode_input(I('a',[b'abcd'],'BYTES',[2]))
NumpyCodec.decode_input(I('a',[b'abcd'],'BYTES',[2,2,1]))
NumpyCodec.decode_input(I('a',[b'ab',b'cd'],'BYTES',[2,2]))
NumpyCodec.decode_input(I('a',[b'ab',b'cd'],'BYTES',[4,1]))
NumpyCodec.decode_input(I('a',['ab',b'cd'],'BYTES',[2,1]))
NumpyCodec.decode_input(I('a',[b'ab','cd'],'BYTES',[2,1]))
NumpyCodec.decode_input(I('a',[b'x'],'BYTES',[1]))
NumpyCodec.decode_input(I('a',[b'xy'],'BYTES',[1]))
NumpyCodec.decode_input(I('a',[b'x',b'y'],'BYTES',[2]))
NumpyCodec.decode_input(I('a',[[b'x'],[b'y']],'BYTES',[2,1]))
NumpyCodec.decode_input(I('a',[['x'],['y']],'BYTES',[2,1]))
NumpyCodec.decode_input(I('a',[],'BYTES',[0]))
NumpyCodec.decode_input(I('a',[],'BYTES',[0,1]))
NumpyCodec.decode_input(I('a',[None],'BYTES',[1]))
NumpyCodec.decode_input(I('a',[1],'FP32',[1])).flags.writeable
NumpyCodec.decode_input(I('a',[b'x'],'BYTES',[1])).flags.writeable
NumpyCodec.decode_input(I('a',['0.5'],'FP32',[1]))
NumpyCodec.decode_input(I('a',['zz'],'FP32',[1]))
NumpyCodec.decode_input(I('a',np.array([[1,2]]),'FP32',[1,2]))
NumpyCodec.decode_input(I('a',[1,0],'BOOL',[2]))
NumpyCodec.decode_input(I('a',b'\x00\x00\x80?','FP32',[1]))
StringCodec.decode_input(I('a',np.array(['a','b']),'BYTES',[2]))
StringCodec.decode_input(I('a',[[b'x'],[b'y']],'BYTES',[2,1]))
"""

TEXT = r"""
StringCodec.can_encode(['a'])
StringCodec.can_encode([])
StringCodec.can_encode(['a',1])
StringCodec.can_encode('a')
StringCodec.can_encode(('a',))
StringCodec.encode_output('a',['x','yy'])
StringCodec.encode_output('a',['x','yy'],use_bytes=False)
StringCodec.encode_output('a',[b'x'])
StringCodec.encode_output('a',[1])
StringCodec.encode_output('a',[None])
StringCodec.encode_output('a','abc')
StringCodec.encode_output('a',[])
StringCodec.encode_output('a',np.array(['x']))
StringCodec.encode_input('a',['x'])
StringCodec.encode_input('a',['x'],use_bytes=False)
StringCodec.decode_input(RI(['a','b'],'BYTES',[2]))
StringCodec.decode_input(RI([b'a','b'],'BYTES',[2,1]))
StringCodec.decode_input(RI(b'ab','BYTES',[2,1]))
StringCodec.decode_input(RI('ab','BYTES',[2,1]))
StringCodec.decode_input(RI([['a'],['b']],'BYTES',[2,1]))
StringCodec.decode_input(RI([1],'FP32',[1]))
StringCodec.decode_input(RI([b'\xff'],'BYTES',[1]))
StringCodec.decode_input(RI([None],'BYTES',[1]))
StringCodec.decode_output(StringCodec.encode_output('a',['x','yy']))
StringRequestCodec.encode_response('m',['a'],use_bytes=False)
StringRequestCodec.encode_response('m',['a'])
StringRequestCodec.encode_request(['a'])
StringRequestCodec.decode_request(StringRequestCodec.encode_request(['a']))
StringRequestCodec.can_encode(['a'])
StringRequestCodec.can_encode([])
StringRequestCodec.decode_request(InferenceRequest(inputs=[RI([1],'FP32',[1])]))
encode_str('a')
encode_str(b'a')
encode_str(1)
decode_str(b'a')
decode_str('a')
decode_str(1)
is_list_of(['a'],str)
is_list_of([],str)
is_list_of('a',str)
is_list_of(('a',),str)
list(as_list('a'))
list(as_list(['a',b'b']))
list(as_list(b'ab'))
list(as_list([['a'],['b']]))
list(as_list(5))
list(as_list(TensorData(['a'])))
list(as_list(TensorData('abc')))
Base64Codec.can_encode([b'a'])
Base64Codec.can_encode([])
Base64Codec.can_encode(['a'])
Base64Codec.encode_output('a',[b'abc',b'd'])
Base64Codec.encode_output('a',['abc'])
Base64Codec.encode_output('a',[b'abc'],use_bytes=False)
Base64Codec.encode_output('a',[1])
Base64Codec.encode_output('a',b'abc')
Base64Codec.encode_input('a',[b'abc'])
Base64Codec.decode_input(RI(['YWJj'],'BYTES',[1]))
Base64Codec.decode_input(RI([b'YWJj'],'BYTES',[1]))
Base64Codec.decode_input(RI(['not base64!'],'BYTES',[1]))
Base64Codec.decode_input(RI(['abc'],'BYTES',[1]))
Base64Codec.decode_input(RI(['YW Jj'],'BYTES',[1]))
Base64Codec.decode_input(RI(['é'],'BYTES',[1]))
Base64Codec.decode_input(RI('YWJj','BYTES',[1]))
Base64Codec.decode_input(RI([['YWJj']],'BYTES',[1,1]))
Base64Codec.decode_output(Base64Codec.encode_output('a',[b'abc',b'd']))
DatetimeCodec.can_encode([dt.datetime(2020,1,1)])
DatetimeCodec.can_encode(['2020-01-01'])
DatetimeCodec.can_encode([])
DatetimeCodec.encode_output('a',[dt.datetime(2020,1,1)])
DatetimeCodec.encode_output('a',['2020-01-01'])
DatetimeCodec.encode_output('a',['zz'],use_bytes=False)
DatetimeCodec.encode_output('a',[dt.datetime(2020,1,1,tzinfo=dt.timezone.utc)],use_bytes=False)
DatetimeCodec.encode_output('a',[dt.date(2020,1,1)],use_bytes=False)
DatetimeCodec.encode_input('a',[dt.datetime(2020,1,1)])
DatetimeCodec.decode_input(RI(['2020-01-01T00:00:00+02:00',b'2020-01-01'],'BYTES',[2]))
DatetimeCodec.decode_input(RI(['2020-01-01T00:00:00Z'],'BYTES',[1]))
DatetimeCodec.decode_input(RI(['zz'],'BYTES',[1]))
DatetimeCodec.decode_input(RI('2020-01-01','BYTES',[1]))
DatetimeCodec.decode_output(DatetimeCodec.encode_output('a',[dt.datetime(2020,1,1)]))
"""

LOOKUPS = r"""
NumpyCodec.encode(name='a',payload=np.array([1]))
NumpyCodec.decode(RI([1],'FP32',[1]))
NumpyRequestCodec.encode('m',np.array([1]))
NumpyRequestCodec.decode(NumpyRequestCodec.encode_request(np.array([1])))
InputCodec.encode_output('a',1)
InputCodec.decode_output(1)
InputCodec.encode_input('a',1)
InputCodec.decode_input(1)
InputCodec.can_encode(1)
RequestCodec.can_encode(1)
RequestCodec.encode_response('m',1)
RequestCodec.decode_response(1)
RequestCodec.encode_request(1)
RequestCodec.decode_request(1)
find_input_codec('np')
find_input_codec('zz')
find_input_codec()
find_input_codec(payload=np.array([1]))
find_input_codec(payload=['a'])
find_input_codec(payload=[])
find_input_codec(payload=3)
find_input_codec(type_hint=np.ndarray)
find_input_codec(type_hint=list[str])
find_input_codec(type_hint=List[str])
find_input_codec(type_hint=List[bytes])
find_input_codec(type_hint=str)
find_input_codec(content_type='zz',payload=np.array([1]))
find_input_codec(payload=[dt.datetime(2020,1,1)])
find_input_codec(type_hint=List[dt.datetime])
find_request_codec('pd')
find_request_codec(type_hint=pd.DataFrame)
find_request_codec(type_hint=np.ndarray)
find_request_codec(payload=pd.DataFrame())
find_request_codec(payload=np.array([1]))
find_request_codec(payload=['a'])
find_request_codec(payload={})
has_decoded(RI([1],'FP32',[1]))
get_decoded(RI([1],'FP32',[1]))
get_decoded_or_raw(RI([1],'FP32',[1]))
get_decoded_or_raw(InferenceRequest(inputs=[]))
has_decoded(RI([1],'FP32',[1],_decoded_payload=3))
get_decoded(RI([1],'FP32',[1],_decoded_payload=3))
get_decoded(RI([1],'FP32',[1],a=3))
has_decoded(RI([1],'FP32',[1],a=3))
decode_request_input(RI([1],'FP32',[1]))
decode_request_input(RI([1],'FP32',[1],content_type='np'))
decode_request_input(RI([1],'FP32',[1],content_type='zz'))
decode_request_input(RI(['a'],'BYTES',[1],content_type='str'))
decode_request_input(RI([1],'FP32',[1]),{'x':MetadataTensor(name='x',datatype='FP32',shape=[1],parameters=Parameters(content_type='np'))})
decode_request_input(RI(['a'],'BYTES',[1],content_type='str'),{'x':MetadataTensor(name='x',datatype='FP32',shape=[1],parameters=Parameters(content_type='np'))})
decode_request_input(RI([1,2],'FP32',[1],content_type='np'))
decode_request_input(RI([b'\xff'],'BYTES',[1],content_type='str'))
encode_response_output(np.array([1]),RequestOutput(name='o'))
encode_response_output(['a'],RequestOutput(name='o'))
encode_response_output(3,RequestOutput(name='o'))
encode_response_output(['a'],RequestOutput(name='o',parameters=Parameters(content_type='base64')))
encode_response_output(['a'],RequestOutput(name='o'),{'o':MetadataTensor(name='o',datatype='FP32',shape=[1],parameters=Parameters(content_type='base64'))})
encode_response_output(['a'],RequestOutput(name='o',parameters=Parameters(content_type='zz')))
inject_batch_dimension([3])
inject_batch_dimension([3,2])
inject_batch_dimension([])
inject_batch_dimension((3,))
encode_to_json({'a':1})
encode_to_json({'a':1},use_bytes=False)
encode_to_json({'a':np.array([1,2.5])})
encode_to_json({'a':np.float32(1)})
encode_to_json(b'abc')
encode_to_json({'a':b'x'})
encode_to_json(nan)
encode_to_json({1:2})
encode_to_json(dt.datetime(2020,1,1))
encode_to_json({1,2})
encode_to_json_bytes({'a':1})
encode_to_json_bytes({'a':np.array([1,2.5])})
encode_to_json_bytes({'a':b'abc'})
encode_to_json_bytes(nan)
encode_to_json_bytes({'a':b'\xff'})
encode_to_json_bytes({1:2})
encode_to_json_bytes(dt.datetime(2020,1,1))
encode_to_json_bytes({'a':np.float32(1)})
encode_to_json_bytes({1,2})
encode_to_json_bytes({'z':1,'a':'é'})
decode_from_bytelike_json_to_dict('{"a":1}')
decode_from_bytelike_json_to_dict(b'{"a":1}')
decode_from_bytelike_json_to_dict(b'[1]')
decode_from_bytelike_json_to_dict(b'zz')
decode_from_bytelike_json_to_dict({'a':1})
decode_json_input_or_output(RI(['{"a":1}',b'[1]'],'BYTES',[2]))
decode_json_input_or_output(RI(['zz'],'BYTES',[2]))
JSONEncoderWithArray().encode({'a':np.array([1,2]),'b':[nan]})
JSONEncoderWithArray().encode({'a':np.array([nan])})
JSONEncoderWithArray().encode({'a':np.float32(1)})
JSONEncoderWithArray().encode({'a':b'x'})
"""

FRAMES = r"""
PandasCodec.can_encode(pd.DataFrame())
PandasCodec.can_encode({})
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,2],'b':['x','y'],'c':[1.5,2.5]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,2],'b':['x','y'],'c':[1.5,2.5]}),use_bytes=False)
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,2]}),'v1')
PandasCodec.encode_response('m',pd.DataFrame())
PandasCodec.encode_response('m',pd.DataFrame({'a':[]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[1.0,nan]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':['x',None]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':['x',nan]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,None]},dtype='Int64'))
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,2]},dtype='Int64'))
PandasCodec.encode_response('m',pd.DataFrame({'a':[{'z':1},[1]]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[{'z':1},[1]]}),use_bytes=False)
PandasCodec.encode_response('m',pd.DataFrame({'a':[b'a',b'b']}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[b'a',b'b']}),use_bytes=False)
PandasCodec.encode_response('m',pd.DataFrame({'a':['x',b'b']}))
PandasCodec.encode_response('m',pd.DataFrame({'a':['x',1]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[True,False]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[True,None]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,2]},dtype=object))
PandasCodec.encode_response('m',pd.DataFrame({'a':['x','y']},dtype='category'))
PandasCodec.encode_response('m',pd.DataFrame({'a':['x','y']},dtype='string'))
PandasCodec.encode_response('m',pd.DataFrame({'a':pd.to_datetime(['2020-01-01'])}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[dt.datetime(2020,1,1)]},dtype=object))
PandasCodec.encode_response('m',pd.DataFrame({1:[1]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[np.array([1,2])]}))
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,2]},index=[5,6]))
PandasCodec.encode_response('m',pd.DataFrame({'a':[1,2]},dtype='float32'))
PandasCodec.encode_request(pd.DataFrame({'a':[1,2],'b':['x','y'],'c':[1.5,2.5]}))
PandasCodec.encode_request(pd.DataFrame({'a':[1,2],'b':['x','y']}),use_bytes=False)
PandasCodec.encode_request(pd.DataFrame({'a':[b'1']}))
PandasCodec.encode_outputs(pd.DataFrame({'a':[1,2]}))
rt(pd.DataFrame({'a':[1,2],'b':['x','y'],'c':[1.5,nan],'d':[{'a':1},[2]]}))
rt(pd.DataFrame({'a':[b'x']}))
rt(pd.DataFrame({'a':[True,False]}))
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2],'FP32',[2])]))
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2],'FP32',[2,1])])).dtypes
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2],'INT64',[2,1])])).dtypes
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2,3,4],'FP32',[2,2])]))
PandasCodec.decode_request(InferenceRequest(inputs=[RI([[1,2],[3,4]],'FP32',[2,2])]))
PandasCodec.decode_request(InferenceRequest(inputs=[RI(['a','b'],'BYTES',[2])])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI(['a','b'],'BYTES',[2])])).dtypes
PandasCodec.decode_request(InferenceRequest(inputs=[RI([b'a','b'],'BYTES',[2,1])])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI([b'a',None],'BYTES',[2,1])])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,None],'INT64',[2])])).dtypes
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,None],'FP32',[2])])).dtypes
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,None],'FP64',[2])])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI([True,None],'BOOL',[2])])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI(['a','b'],'BYTES',[2],content_type='str')])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI(['{"a":1}','b'],'BYTES',[2],content_type='pd_json')])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI(['{"a":1}','3'],'BYTES',[2],content_type='pd_json')])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI(['YQ=='],'BYTES',[1],_decoded_payload=[b'a'])])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2,3,4],'FP32',[2,2],_decoded_payload=np.array([[1,2],[3,4]]))])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2],'FP32',[2,1],_decoded_payload=np.array([[1],[2]]))])).values.tolist()
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2],'FP32',[2,1],_decoded_payload=np.array([[1],[2]],dtype='float32'))])).dtypes
PandasCodec.decode_request(InferenceRequest(inputs=[RI([1,2],'FP32',[2]),RequestInput(name='y',shape=[3],datatype='FP32',data=[1,2,3])]))
PandasCodec.decode_request(InferenceRequest(inputs=[]))
PandasCodec.decode_response(PandasCodec.encode_response('m',pd.DataFrame({'a':['x','y']})))
"""

ARGUMENTS = r"""
call(f1,R(x))
call(f1,R(x,id='7',parameters={'content_type':'np'}))
call(f1,R(x,outputs=[{'name':'foo'}]))
call(f1,R(I('y',[1])))
call(f1,R(x,I('y',[1])))
call(f1,R())
call(f1,R(I('x',[1,2],'FP32',[1])))
call(f2,R(x))
call(f2,R(x,I('y',[1,2])))
call(f3,R(b))
call(f3,R(I('x',[b'a'],'BYTES')))
call(f3,R(x))
call(f4,R(x,I('s',['a'],'BYTES')))
call(f4,R(x))
call(f5,R(I('a',[1,2]),I('b',['x','y'],'BYTES',content_type='str')))
call(f5,R(I('df',[1,2])))
call(f6,R(I('a',[1,2]),I('b',[1,2]),I('s',['q'],'BYTES')))
call(f6,R(I('s',['q'],'BYTES')))
call(f7,R(x))
call(f8,R(x))
call(f9,R(I('x',['YWJj'],'BYTES')))
call(f10,R(I('x',['2020-01-01'],'BYTES')))
call(f11,R(x))
call(f12,R(x))
call(f13,R(x))
call(f14,R(x))
call(f15,R(x))
call(f16,R(x))
call(f17,R(x))
call(f18,R(x))
call(f19,R(x))
call(f20,R(x))
call(f21,R(x))
call(f22,R(x))
call(f23,R(b))
call(f24,R(x))
call(f25,R(x))
call(f25,R())
call(f26,R(I('x',['2020-01-01'],'BYTES')))
call(f27,R(x))
call(f28,R(x))
call(f29,R(x))
call(f30,R())
call(f31,R(x))
call(f32,R(x))
call(f33,R(x))
call(f1,R(I('x',['a'],'BYTES',content_type='str')))
inspect.signature(decode_args(f1))
decode_args(f1).__wrapped__ is f1
decode_args(f1).__name__
inspect.iscoroutinefunction(decode_args(f1))
"""

MODEL = r"""
m.ready
m.name,m.version,m.settings,m.inputs,m.outputs
asyncio.run(m.load())
m.ready
asyncio.run(m.unload())
m.ready
asyncio.run(m.metadata())
asyncio.run(m.predict(R(x)))
inspect.isasyncgenfunction(MLModel.predict_stream), inspect.iscoroutinefunction(MLModel.predict_stream), inspect.isasyncgen(m.predict_stream(None))
asyncio.run(m.predict_stream(None).__anext__())
m.decode(x)
m.decode(x,NumpyCodec)
m.decode(x,default_codec=NumpyCodec)
m.decode(b)
m.decode(I('x',[1],content_type='np'))
m.decode(I('x',['a'],'BYTES',content_type='str'),default_codec=NumpyCodec)
m.decode(I('x',[1],content_type='zzz'))
m.decode_request(R(x))
m.decode_request(R(x),NumpyRequestCodec)
m.decode_request(R(I('x',[1,2],content_type='np')))
m.decode_request(R(x,parameters={'content_type':'pd'}))
m.decode_request(R(x,parameters={'content_type':'np'}))
m.decode_request(R(x,parameters={'content_type':'zz'}))
m.decode_request(R(I('x',[1],content_type='zz'),parameters={'content_type':'zz'}))
m.encode(np.array([1]),RequestOutput(name='o'))
m.encode(3,RequestOutput(name='o'))
m.encode(3,RequestOutput(name='o'),NumpyCodec)
m.encode(np.int64(3),RequestOutput(name='o'),NumpyCodec)
m.encode(['a'],RequestOutput(name='o',parameters={'content_type':'base64'}))
m.encode_response(np.array([1]))
m.encode_response(['a'])
m.encode_response(3)
m.encode_response(3,NumpyRequestCodec)
m.encode_response(np.int64(3),NumpyRequestCodec)
m.encode_response(np.int64(3),default_codec=NumpyRequestCodec)
m.encode_response(pd.DataFrame({'a':[1]}))
m.encode_response([np.array([1])])
m.encode_response({'a':1})
vars(m)
setattr(m,'inputs',[MetadataTensor(name='x',datatype='FP32',shape=[-1],parameters={'content_type':'np'})]),m.inputs,m.settings.inputs
m.decode(x)
m.decode_request(R(x)),
setattr(m,'outputs',[MetadataTensor(name='o',datatype='BYTES',shape=[-1],parameters={'content_type':'base64'})]),m.outputs
m.encode(['a'],RequestOutput(name='o'))
asyncio.run(m.metadata())
setattr(m,'name','q')
setattr(m,'ready',True), m.ready
MLModel(ModelSettings(name='a',implementation=MLModel,parameters={'version':'v1','uri':'/x'})).version
MLModel(ModelSettings(name='a',implementation=MLModel,inputs=[MetadataTensor(name='x',datatype='FP32',shape=[-1],parameters={'content_type':'np'})],parameters={'content_type':'np'})).decode_request(R(x))
asyncio.run(MLModel(ModelSettings(name='a',implementation=MLModel,platform='p',versions=['1'],inputs=[MetadataTensor(name='x',datatype='FP32',shape=[-1],parameters={'content_type':'np'})],parameters={'content_type':'np','version':'2'})).metadata())
MLModel(ModelSettings(name='a',implementation=MLModel,parameters={'content_type':'str'})).encode_response(['a'])
MLModel(ModelSettings(name='a',implementation=MLModel,parameters={'content_type':'pd'})).encode_response(['a'])
(lambda r:(m.decode(r),r,m.decode(r) is m.decode(r)))(I('x',[1],content_type='np'))
(lambda r:(m.decode_request(r),r))(R(I('x',[1],content_type='np'),parameters={'content_type':'np'}))
"""

SETTINGS = r"""
ModelSettings(name='m',implementation=MLModel)
ModelSettings(name='m',implementation='mlserver.MLModel')
ModelSettings(name='m',implementation_='mlserver.MLModel')
ModelSettings(name='m')
ModelSettings(name='m',implementation='nope.Klass')
ModelSettings(name='m',implementation='nope.Klass').implementation
ModelSettings(name='m',implementation='mlserver.Nope').implementation
ModelSettings(name='m',implementation='mlserver').implementation
ModelSettings(name='m',implementation=E).implementation
ModelSettings(name='m',implementation=E).implementation_
ModelSettings(name='m',implementation=3)
ModelSettings(name='m',implementation=E).model_dump()
ModelSettings(name='m',implementation=E).model_dump(by_alias=True)
ModelSettings(name='m',implementation=E).dict()
ModelSettings(name='m',implementation=E).json()
ModelSettings(name='m',implementation=E,parameters=ModelParameters(uri='x')).dict()
ModelSettings(name='m',implementation=E,parameters={'uri':'x'},inputs=[{'name':'x','datatype':'FP32','shape':[1]}]).dict()
ModelSettings(name='m',implementation=E,zzz=3)
ModelSettings(name='m',implementation=E).version
ModelSettings(name='m',implementation=E,parameters={'version':'1'}).version
ModelSettings(name='m',implementation=E).parameters
ModelSettings(name='m',implementation=E,parallel_workers=2).parallel_workers
setattr(ModelSettings(name='m',implementation=E),'implementation',MLModel)
setattr(ModelSettings(name='m',implementation=E),'name',3)
ModelSettings(name='m',implementation=E)==ModelSettings(name='m',implementation=E)
ModelSettings.parse_file('nope.json')
ModelSettings.model_validate({'name':'m','implementation':E})
ModelSettings.model_validate({'name':'m'})
ModelSettings.model_validate(ModelSettings(name='m',implementation=E))
ModelSettings.parse_obj({'name':'m','implementation':E})
ModelSettings.model_validate({'name':'m','implementation_':E})
ModelSettings.model_validate({'name':'m','implementation':MLModel})
ModelSettings(name='m',implementation=E).copy(update={'name':'z'}).name
ModelSettings(name='m',implementation=E).model_copy(update={'name':'z'}).name
ModelSettings(name='m',implementation=E,max_batch_size='5').max_batch_size
ModelSettings(name='m',implementation=E,max_batch_size='x')
ModelSettings(name=None,implementation=E)
ModelParameters()
ModelParameters(uri='a',foo=3)
ModelParameters(uri='a',foo=3).foo
ModelParameters(version=1)
ModelParameters(extra=None)
ModelParameters().model_dump()
ModelParameters(uri='a',foo=3).dict()
ModelParameters(uri='a',foo=3).json()
ModelParameters().extra
Settings()
Settings(http_port=1).http_port
Settings(zz=1)
Settings(http_port=1).dict()
Settings(cors_settings={'allow_origins':['*']})
Settings().json()
Settings(model_repository_implementation='mlserver.repository.SchemalessModelRepository').model_repository_implementation
Settings(parallel_workers='x')
CORSSettings()
"""

URIS = r"""
gu(MS())
gu(MS('model/x.bin'))
gu(MS('folder'))
gu(MS('folder'),wellknown_filenames=['zz','model.joblib'])
gu(MS('folder'),['zz'])
gu(MS('nope'))
gu(MS('file:folder'))
gu(MS('file:model/x.bin'))
gu(MS('s3://b/k'))
gu(MS('x.bin',os.path.abspath('model/model-settings.json')))
gu(MS('./x.bin','model/model-settings.json'))
gu(MS('',os.path.abspath('model/model-settings.json')))
gu(ModelSettings(name='m',implementation=E,parameters={}))
to_absolute_path(MS('x','/q/model-settings.json'),'x')
to_absolute_path(MS('x','/q/model-settings.json'),'/abs')
to_absolute_path(MS('x'),'x')
to_absolute_path(MS('x','/q/model-settings.json'),'../x')
to_absolute_path(MS('x','rel/model-settings.json'),'x')
insert_headers(R(),{'a':'b'})
insert_headers(R(parameters={'k':1}),{'a':'b'})
insert_headers(R(parameters={'headers':{'z':1}}),{'a':'b'})
(lambda r: (insert_headers(r,{'a':'b'}) is r))(R())
(lambda r:(extract_headers(r),r))(InferenceResponse(model_name='m',outputs=[]))
(lambda r:(extract_headers(r),r))(InferenceResponse(model_name='m',outputs=[],parameters={'headers':{'a':'b'},'q':1}))
(lambda r:(extract_headers(r),r))(InferenceResponse(model_name='m',outputs=[],parameters={'headers':{'a':'b'}}))
len(generate_uuid())
CustomHandler(rest_path='/x')
[ (h, mm.__name__) for h,mm in get_custom_handlers(MLModel(MS()))]
mlserver.types.__name__, mlserver.__version__
"""

RAW = r"""
pack(RI([1,2],'FP32',[2]))
pack(RI(['a',b'bc'],'BYTES',[2]))
pack(RI([[1,2],[3,4]],'INT64',[2,2]))
pack(RI([True],'BOOL',[1]))
pack(RI([1.5],'FP16',[1]))
pack(RI(['a'],'BYTES',[1]))
pack(RI('ab','BYTES',[1]))
pack(RI([1],'UINT64',[1]))
unpack(RI([],'FP32',[2]),b'\0\0\x80?\0\0\0@')
unpack(RI([],'BYTES',[2]),b'\x01\0\0\0a\x02\0\0\0bc')
unpack(RI([],'INT8',[2]),b'\x01')
extract_raw([RI([1,2],'FP32',[2])])
inject_raw([RI([],'FP32',[2])],[b'\0\0\x80?\0\0\0@'])
"""

MORE = r"""
register_input_codec(MyCodec) is MyCodec
find_input_codec('my').__name__
find_input_codec(type_hint=dict).__name__
Old.encode_output('a', 1)
call(g1, R(x))
call(g1, R(I('d', [1])))
register_request_codec(MyRequestCodec) is MyRequestCodec
m.encode_response({'a': 1})
m.decode_request(R(I('x', [1, 2]), parameters={'content_type': 'mr'}))
[(handler, method.__name__) for handler, method in get_custom_handlers(CM(MS()))]
[(handler, method.__name__) for handler, method in get_custom_handlers(CN(MS()))]
vars(CM.bb), inspect.iscoroutinefunction(CM.bb)
streamed()
mlserver.log(a=1)
logged(a=1)
logged(a='x')
mlserver.register('bb', 'd').observe
mlserver.metrics.REGISTRY.exists('a'), mlserver.metrics.REGISTRY.exists('zz')
mlserver.metrics.REGISTRY['zz']
saved()
data_set([3])
data_set(TensorData([4]))
data_set(np.array([5]))
listed()
listed('b')
listed('nope')
ModelSettings.parse_file('repository/a/model-settings.json')
ModelSettings.parse_file('repository/a/model-settings.json').implementation
ModelSettings.parse_file('repository/bad/model-settings.json')
ModelSettings.parse_file('nope.json')
error('mlserver.errors.MLServerError', 'm')
error('mlserver.errors.MLServerError', 'm', 418)
error('mlserver.errors.MLServerError', 'm', status_code=500)
error('mlserver.errors.ModelNotFound', 'n')
error('mlserver.errors.ModelNotFound', 'n', 'v')
error('mlserver.errors.ModelNotReady', 'n')
error('mlserver.errors.ModelNotReady', 'n', 'v')
error('mlserver.errors.InferenceError', 'm')
error('mlserver.errors.InvalidModelURI', 'n')
error('mlserver.errors.InvalidModelURI', 'n', 'u')
error('mlserver.errors.ModelParametersMissing', 'n')
error('mlserver.codecs.errors.CodecError', 'x')
error('mlserver.codecs.errors.CodecNotFound')
error('mlserver.codecs.errors.CodecNotFound', name='a')
error('mlserver.codecs.errors.CodecNotFound', name='a', payload_type='b', is_input=True)
error('mlserver.codecs.errors.CodecNotFound', payload_type='b', is_request=True)
error('mlserver.codecs.errors.OutputNotFound', 0, int, [str])
error('mlserver.codecs.errors.InputsNotFound', [x, b], {'q': int, 'r': str})
error('mlserver.metrics.errors.InvalidModelContext')
error('mlserver.metrics.errors.MetricNotFound', 'x')
error('mlserver.metrics.errors.MetricNotFound', 'x', 3)
asyncio.run(_handled(mlserver.errors.MLServerError('x', 418)))
importlib.import_module('mlserver.rest.responses').Response({'a': nan, 'b': b'x'}).body
importlib.import_module('mlserver.rest.responses').Response(content=None).body
importlib.import_module('mlserver.rest.responses').ServerSentEvent(R()).encode()
env("ModelSettings(name='m', implementation=E)", MLSERVER_MODEL_NAME='e', MLSERVER_MODEL_PLATFORM='pl')
env("ModelSettings()", MLSERVER_MODEL_NAME='e', MLSERVER_MODEL_IMPLEMENTATION=E)
env("ModelSettings(implementation=E)", MLSERVER_MODEL_NAME='e', MLSERVER_MODEL_URI='uu')
env("ModelSettings(name='m', implementation=E, parameters={})", MLSERVER_MODEL_URI='uu', MLSERVER_MODEL_VERSION='v')
env("ModelSettings(name='m', implementation=E, parameters={'uri': 'z'})", MLSERVER_MODEL_URI='uu')
env("ModelSettings(name='m', implementation=E)", MLSERVER_MODEL_PARAMETERS='{"uri":"q"}')
env("ModelSettings(name='m', implementation=E, parameters={'version': '3'})", MLSERVER_MODEL_PARAMETERS='{"uri":"q"}')
env("ModelSettings(name='m', implementation=E)", MLSERVER_MODEL_INPUTS='[{"name":"x","datatype":"FP32","shape":[1]}]')
env("ModelSettings(name='m', implementation=E)", MLSERVER_MODEL_INPUTS='zzz')
env("ModelSettings(name='m', implementation=E).max_batch_size", mlserver_model_max_batch_size='5')
env("ModelSettings(name='m', implementation=E).max_batch_size", MLSERVER_MODEL_MAX_BATCH_SIZE='x')
env("ModelParameters()", MLSERVER_MODEL_URI='uu', MLSERVER_MODEL_EXTRA='{"a":1}', MLSERVER_MODEL_FOO='1')
env("ModelSettings.parse_file('repository/a/model-settings.json')", MLSERVER_MODEL_URI='uu', MLSERVER_MODEL_VERSION='v')
env("ModelSettings.model_validate({'name': 'm', 'implementation': E})", MLSERVER_MODEL_PLATFORM='uu')
env("Settings().http_port", MLSERVER_HTTP_PORT='9')
env("Settings(http_port=3).http_port", MLSERVER_HTTP_PORT='9')
env("Settings().debug", MLSERVER_DEBUG='false')
env("Settings().extensions", MLSERVER_EXTENSIONS='["a"]')
env("Settings().cors_settings", MLSERVER_CORS_SETTINGS='{"max_age":1}')
env("CORSSettings()", MLSERVER_MAX_AGE='3', MLSERVER_ALLOW_METHODS='["POST"]')
env("Settings().logging_settings", MLSERVER_LOGGING_SETTINGS='a.json')
env("Settings().http_port", MLSERVER_HTTP_PORT='')
env("listed()", MLSERVER_MODEL_PLATFORM='pl')
"""

GROUPS = {
    "types": TYPES,
    "numpy": NUMPY,
    "bytes": BYTES,
    "text": TEXT,
    "lookups": LOOKUPS,
    "frames": FRAMES,
    "arguments": ARGUMENTS,
    "model": MODEL,
    "settings": SETTINGS,
    "uris": URIS,
    "raw": RAW,
    "more": MORE,
}


def shown(value: Any) -> str:
    """A value as text that says all that code can see of it, and nothing of where it lies in memory."""
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {value.tolist()!r}"
    if isinstance(value, pd.DataFrame):
        return f"frame {[str(dtype) for dtype in value.dtypes]} {value.to_dict('list')!r}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def answer(expression: str) -> str:
    """What an expression gives, or raises."""
    try:
        return "gives " + shown(eval(expression, globals()))
    except Exception as exception:
        status = getattr(exception, "status_code", None)
        text = re.sub(r"input_value=.*?, input_type", "input_type", str(exception))
        return f"raises {type(exception).__name__}{f' ({status})' if status else ''}: {text}"


def parameters(value: Any) -> str:
    """The parameters of a callable, without their hints."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    kept = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.Signature(kept)))


def names() -> dict[str, str]:
    """What each module defines, with parameters, fields and attributes."""
    found = {}
    for module in MODULES:
        loaded = importlib.import_module(module)
        public = getattr(loaded, "__all__", None) or [
            name for name in vars(loaded) if not name.startswith("_") and name != "TYPE_CHECKING"
        ]
        for name in public:
            value = getattr(loaded, name, None)
            exported = name in getattr(loaded, "__all__", ())
            if inspect.ismodule(value) or not (exported or getattr(value, "__module__", module) == module):
                continue
            found[f"{module}.{name}"] = parameters(value) if callable(value) else type(value).__name__
            if not inspect.isclass(value) or not value.__module__.startswith("mlserver"):
                continue
            for attribute in dir(value):
                inherited = next((base for base in value.__mro__ if attribute in vars(base)), value)
                if attribute.startswith("_") or not inherited.__module__.startswith("mlserver"):
                    continue
                member = inspect.getattr_static(value, attribute)
                member = getattr(member, "__func__", member)
                found[f"{module}.{name}.{attribute}"] = parameters(member) if inspect.isfunction(member) else ""
    return found


if __name__ == "__main__":
    Path("model").mkdir()
    Path("folder").mkdir()
    for name, content in {
        "model/x.bin": "hi",
        "folder/model.joblib": "",
        "repository/a/model-settings.json": '{"implementation": "models.Mine", "parameters": {"uri": "./x.bin"}}',
        "repository/a/models.py": "from mlserver import MLModel\nclass Mine(MLModel): pass\n",
        "repository/b/v1/model-settings.json": json.dumps(
            {"name": "b", "implementation": E, "parameters": {"version": "v1"}, "unknown": 1, "parallel_workers": 2}
        ),
        "repository/bad/model-settings.json": '{"name":3',
        "repository/c/model-settings.json": json.dumps({"name": "other", "implementation": E}),
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    results = {"names": names(), "answers": {}}
    for group, expressions in GROUPS.items():
        for expression in filter(None, expressions.splitlines()):
            results["answers"][f"{group}: {expression}"] = answer(expression)
    json.dump(results, sys.stdout)
