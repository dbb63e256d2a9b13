"""What asks tasks: for predictions, texts, chats and vectors, in one request or in any number of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Unpack

from manyhats_client import questions as asking
from manyhats_client._async.many import AsyncManyAsker, async_in_batches
from manyhats_client._async.sender import AsyncSender
from manyhats_client._async.streams import AsyncStream
from manyhats_client.answers import GenerateAnswer, Prediction, Result
from manyhats_client.chat import ChatAnswer, ChatChunk
from manyhats_client.choices import (
    CallOptions,
    ChatOptions,
    EmbedOptions,
    GenerateOptions,
    PredictOptions,
    divide,
    only_options,
)
from manyhats_client.concurrency import AsyncItems, length_of
from manyhats_client.embeddings import EmbeddingPage, Embeddings
from manyhats_client.errors import TooLarge
from manyhats_client.events import ChatEvents, GenerateEvents
from manyhats_client.inputs import Inputs, Messages, OneInput, Question
from manyhats_client.items import Item
from manyhats_client.outputs import GenerateEvent


class AsyncAsking(AsyncSender):
    """A method for each way of asking."""

    async def predict(
        self,
        task: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        **given: Unpack[PredictOptions],
    ) -> Prediction:
        """Asks one task; the answer has one output for each input, in order."""
        options, own = divide(given)
        return await self._call(asking.predict(task, inputs, {**own, **(parameters or {})}), options)

    async def predict_many(
        self,
        task: str,
        inputs: AsyncItems[OneInput],
        *,
        parameters: Mapping[str, Any] | None = None,
        batch_size: int = 64,
        concurrency: int = 4,
        progress: Callable[[int, int | None], object] | None = None,
        **given: Unpack[PredictOptions],
    ) -> AsyncGenerator[Item, None]:
        """Asks one task about any number of inputs, and gives an Item for each, in their order.

        They are read as they are needed and asked in requests of at most `batch_size` inputs, at most `concurrency` at
        once. An input that fails is an Item with an `error`, and leaves the others alone; it is asked again by itself
        where the server refuses it for now. Raised is only what concerns all: a server that is not there or none of
        Manyhats', and a key that may not ask. `progress` is told how many are done and, where the inputs have a length,
        how many there are.
        """
        options, own = divide(given)
        asker = AsyncManyAsker(self, task, {**own, **(parameters or {})}, options)
        total = length_of(inputs)
        done = 0

        async def ask(first: int, batch: list[OneInput]) -> Any:
            return await asker.ask([Item(first + i, one) for i, one in enumerate(batch)])

        async with aclosing(async_in_batches(inputs, batch_size, concurrency, ask)) as batches:
            async for batch in batches:
                for item in batch:
                    done += 1
                    if progress is not None:
                        progress(done, total)
                    yield item

    async def predict_batch(self, questions: Iterable[Question], **given: Unpack[CallOptions]) -> list[Result]:
        """Asks many questions, of several tasks, in one request: `[{"task": ..., "inputs": ..., "parameters": {...}}]`.

        The results are in the order asked. One that failed is a Failure in its place, and leaves the
        others alone; a Failure is not tried again.
        """
        return await self._call(asking.predict_batch(questions), only_options(given))

    async def predict_tasks(
        self,
        tasks: Iterable[str],
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        **given: Unpack[PredictOptions],
    ) -> list[Result]:
        """Asks several tasks about the same inputs; one result for each task, as from `predict_batch`."""
        options, own = divide(given)
        return await self._call(asking.predict_tasks(tasks, inputs, {**own, **(parameters or {})}), options)

    async def generate(
        self,
        task: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        **given: Unpack[GenerateOptions],
    ) -> GenerateAnswer:
        """Asks a task that generates. Raises WrongKind for another one."""
        options, own = divide(given)
        return await self._call(asking.generate(task, inputs, {**own, **(parameters or {})}), options)

    def generate_stream(
        self,
        task: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        **given: Unpack[GenerateOptions],
    ) -> AsyncStream[GenerateEvent, GenerateAnswer]:
        """The same, token by token: iterate over it, best as a context manager; at the end it has an `answer`."""
        options, own = divide(given)
        operation = asking.generate_stream(task, inputs, {**own, **(parameters or {})})
        return AsyncStream(self, operation, options, GenerateEvents())

    async def chat(
        self,
        task: str,
        messages: Messages,
        *,
        parameters: Mapping[str, Any] | None = None,
        **given: Unpack[ChatOptions],
    ) -> ChatAnswer:
        """Asks for the next message of a conversation: `[{"role": "user", "content": "..."}]`, or a text.

        The fields are OpenAI's: `max_tokens`, `temperature`, ...
        """
        options, own = divide(given)
        return await self._call(asking.chat(task, messages, {**own, **(parameters or {})}), options)

    def chat_stream(
        self,
        task: str,
        messages: Messages,
        *,
        parameters: Mapping[str, Any] | None = None,
        **given: Unpack[ChatOptions],
    ) -> AsyncStream[ChatChunk, ChatAnswer]:
        """The same, token by token: iterate over it, best as a context manager; at the end it has an `answer`."""
        options, own = divide(given)
        operation = asking.chat_stream(task, messages, {**own, **(parameters or {})})
        return AsyncStream(self, operation, options, ChatEvents())

    async def embed(
        self,
        task: str,
        inputs: str | AsyncItems[str],
        *,
        batch_size: int = 256,
        concurrency: int = 4,
        progress: Callable[[int, int | None], object] | None = None,
        **given: Unpack[EmbedOptions],
    ) -> Embeddings:
        """The vectors of any number of texts, by a task of kind `embed` or by `base`; `numpy()` makes an array.

        They are asked as by `predict_many`, but what fails is raised. Vectors travel as float32 in base64. A request
        with more inputs than the server takes is asked again in halves.
        """
        options, own = divide(given)
        texts: AsyncItems[str] = [inputs] if isinstance(inputs, str) else inputs
        total = length_of(texts)
        found = Embeddings(task)

        async def ask(first: int, batch: list[str]) -> list[EmbeddingPage]:
            try:
                return [await self._call(asking.embed(task, batch, own), options)]
            except TooLarge:
                middle = len(batch) // 2
                if not middle:
                    raise
            return await ask(first, batch[:middle]) + await ask(first + middle, batch[middle:])

        async with aclosing(async_in_batches(texts, batch_size, concurrency, ask)) as answers:
            async for pages in answers:
                for page in pages:
                    found.add(page)
                if progress is not None:
                    progress(len(found), total)
        return found
