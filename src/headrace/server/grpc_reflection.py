"""Server reflection, v1 and v1alpha: tools ask what is served and get its descriptors. `server.grpc` adds it.

Source: the reflection protocol of the gRPC project; both versions have the same messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from headrace.protocols import v2_grpc
from headrace.server.grpc_connection import Call, Kind, Message, Method, Send

VERSIONS: Final = ("v1", "v1alpha")


def methods(services: Sequence[str]) -> dict[str, Method]:
    """The rows of the table, for a server that offers these services and reflection itself."""
    own = tuple(f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS)
    rows = {}
    for version, name in zip(VERSIONS, own, strict=True):
        answer = _answerer(version, (*services, *own))
        rows[f"/{name}/ServerReflectionInfo"] = Method(
            name="ServerReflectionInfo",
            kind=Kind.BIDIRECTIONAL,
            request=v2_grpc.message_class(f"grpc.reflection.{version}.ServerReflectionRequest"),
            handler=_handler(answer),
        )
    return rows


def _handler(answer: Callable[[Message], Message]) -> Callable[..., Any]:
    async def handler(_call: Call, messages: AsyncIterator[Message], send: Send) -> None:
        async for message in messages:
            await send(answer(message))

    return handler


def _answerer(version: str, services: Sequence[str]) -> Callable[[Message], Message]:
    response_class = v2_grpc.message_class(f"grpc.reflection.{version}.ServerReflectionResponse")

    def answer(message: Message) -> Message:
        response = response_class(valid_host=message.host, original_request=message)
        asked = message.WhichOneof("message_request")
        try:
            match asked:
                case "list_services":
                    for name in services:
                        response.list_services_response.service.add(name=name)
                case "file_by_filename":
                    files = v2_grpc.file_descriptors([message.file_by_filename])
                    response.file_descriptor_response.file_descriptor_proto.extend(files)
                case "file_containing_symbol":
                    file = v2_grpc.POOL.FindFileContainingSymbol(message.file_containing_symbol)
                    files = v2_grpc.file_descriptors([file.name])
                    response.file_descriptor_response.file_descriptor_proto.extend(files)
                case "all_extension_numbers_of_type":
                    kind = v2_grpc.POOL.FindMessageTypeByName(message.all_extension_numbers_of_type)
                    response.all_extension_numbers_response.base_type_name = kind.full_name  # proto3: it has none
                case "file_containing_extension":  # proto3 has none
                    response.error_response.error_code = v2_grpc.NOT_FOUND
                    response.error_response.error_message = "nothing here has extensions"
                case _:
                    response.error_response.error_code = v2_grpc.INVALID_ARGUMENT
                    response.error_response.error_message = "the request asks for nothing"
        except KeyError as exc:
            response.error_response.error_code = v2_grpc.NOT_FOUND
            response.error_response.error_message = f"not found: {exc.args[0]}"
        return response

    return answer
