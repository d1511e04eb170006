from fastapi import HTTPException, Request, Response
from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse
from pydantic import BaseModel
from starlette.responses import StreamingResponse


class Order(BaseModel):
    item: str
    count: int = 1


class Shop(MLModel):
    async def load(self) -> bool:
        self._stock = {"apple": 3}
        return True

    @custom_handler(rest_path="/raw")
    async def raw(self, request: Request) -> Response:
        body = await request.body()
        seen = f"{request.method} {request.url.path} {request.headers['x-tag']} {body.decode()}"
        return Response(content=seen, status_code=202, media_type="text/plain", headers={"x-shop": self.name})

    @custom_handler(rest_path="/stock/{item}", rest_method="GET")
    async def stock(self, item: str, least: int = 0) -> dict:
        if item not in self._stock:
            raise HTTPException(status_code=404, detail=f"no {item} here")
        return {"item": item, "stock": self._stock[item], "enough": self._stock[item] >= least}

    @custom_handler(rest_path="/orders", rest_method="POST")
    def order(self, order: Order):
        if order.count > self._stock.get(order.item, 0):
            raise MLServerError(f"out of {order.item}", status_code=409)
        return {"ordered": order.model_dump()}

    @custom_handler(rest_path="/ticker", rest_method="GET")
    async def ticker(self):
        async def lines():
            yield "one\n"
            yield "two\n"

        return StreamingResponse(lines(), media_type="text/plain")

    @custom_handler(rest_path="/broken", rest_method="GET")
    async def broken(self):
        return 1 / 0

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[])
