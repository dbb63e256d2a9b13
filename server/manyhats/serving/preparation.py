"""From a request and its adapter to the engine's request: template, prompt, tokens, and parameters."""

from __future__ import annotations

from collections.abc import Sequence as Many
from itertools import islice
from typing import NamedTuple

from manyhats.backbone import Backbone, Encoded, Text, Tokenizer
from manyhats.core.kinds.base import Preparing
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.core.sequence import Request, Sequence
from manyhats.serving.chat import chat_prompt
from manyhats.serving.generation import Generation, GenerationContext
from manyhats.serving.inference import RequestState
from manyhats.serving.inputs import (
    Prepared,
    PromptTruncation,
    check_lengths,
    fill,
    prepare,
    prepare_prompt,
    prepare_tokens,
)


class _Opened(NamedTuple):
    """A request that one pass answers, before its texts are tokenised. `prepared`: where its tokens were given."""

    preparing: Preparing
    texts: list[Text]
    prepared: Prepared | None


class Preparation:
    """Fills in `prepared` and `engine_request` of requests. May be used from any thread.

    `generation`: for backbones with a causal language-model head.
    """

    def __init__(self, backbone: Backbone, generation: Generation | None) -> None:
        self.backbone = backbone
        self.generation = generation

    def prepare_passes(self, states: Many[RequestState]) -> list[Exception | None]:
        """`prepare` for requests that one pass answers, whose texts are tokenised together: what it raises for each."""
        opened: list[_Opened | Exception] = []
        for state in states:
            try:
                opened.append(self._open_pass(state, self._positions(state)))
            except Exception as error:
                opened.append(error)
        groups: dict[int, list[Text]] = {}  # by the most tokens that are read
        for one in opened:
            if isinstance(one, _Opened):
                groups.setdefault(one.preparing.max_tokens, []).extend(one.texts)
        try:
            encoded = {limit: iter(self.backbone.tokenizer.encode(texts, limit)) for limit, texts in groups.items()}
        except Exception:  # of one text: it fails its own request
            return [self._failure(state) for state in states]
        errors: list[Exception | None] = []
        for state, one in zip(states, opened, strict=True):
            if isinstance(one, Exception):
                errors.append(one)
                continue
            own = list(islice(encoded[one.preparing.max_tokens], len(one.texts)))
            try:
                self._close_pass(state, one, own)
            except Exception as error:
                errors.append(error)
            else:
                errors.append(None)
        return errors

    def _failure(self, state: RequestState) -> Exception | None:
        """What `prepare` raises."""
        try:
            self.prepare(state)
        except Exception as error:
            return error
        return None

    def prepare(self, state: RequestState) -> None:
        """Raises InvalidRequest or InputTooLong for what the task or the backbone does not support."""
        positions = self._positions(state)
        if (parameters := state.generate_parameters) is not None:
            self._prepare_generation(state, parameters, positions)
        else:
            opened = self._open_pass(state, positions)
            encoded = self.backbone.tokenizer.encode(opened.texts, opened.preparing.max_tokens)
            self._close_pass(state, opened, encoded)

    def _positions(self, state: RequestState) -> int:
        """The most tokens of one of its sequences."""
        return self.backbone.max_tokens - state.adapter.position_offset

    def _open_pass(self, state: RequestState, positions: int) -> _Opened:
        """The texts to tokenise for one pass."""
        kind, texts, parameters = state.task_kind, state.request.texts, state.parameters
        max_tokens = min(state.settings.max_tokens or positions, positions)
        preparing = Preparing(state.settings, state.adapter, self.backbone, max_tokens)
        kind.check_texts(texts, parameters, preparing)
        if state.request.prompts is not None:
            vocabulary = int(self.backbone.config.vocab_size)
            prepared = prepare_tokens(
                state.request.prompts, vocabulary=vocabulary, max_tokens=max_tokens, truncate=state.truncates
            )
            return _Opened(preparing, [], prepared)
        transform = kind.text_transform(parameters, preparing)
        return _Opened(preparing, fill(texts, template=state.settings.template, transform=transform), None)

    def _close_pass(self, state: RequestState, opened: _Opened, encoded: list[Encoded]) -> None:
        """The tokens of each text for one pass, and its pooling parameters."""
        kind, parameters, preparing = state.task_kind, state.parameters, opened.preparing
        state.prepared = opened.prepared or check_lengths(
            opened.texts, encoded, max_tokens=preparing.max_tokens, truncate=state.truncates
        )
        encoded = state.prepared.encoded
        params = kind.pooling_params(encoded, parameters, preparing)
        state.engine_request = Request(
            state.version.task,
            [
                Sequence(state.adapter, one.ids, own, one.type_ids, index)
                for index, (one, own) in enumerate(zip(encoded, params, strict=True))
            ],
            tenant=state.call.flow,
            weight=state.call.caller.weight,
            deadline=state.call.deadline,
            reservation=state.reservation,
            digest=(state.effective_version or state.version).sha256,
            priority=state.settings.priority,
        )

    def _prepare_generation(self, state: RequestState, parameters: GenerateParameters, positions: int) -> None:
        """The prompts and the sequences to generate. `positions`: the maximum tokens of a sequence."""
        assert self.generation is not None, "a task that generates on a backbone that cannot"
        new_tokens = min(parameters.max_new_tokens, 1)  # at least one, where any are requested
        max_tokens = min(state.settings.max_tokens or positions, positions - new_tokens)
        vocabulary = self.generation.vocabulary
        state.prepared = _prompts(state, parameters, self.backbone.tokenizer, vocabulary, max_tokens)
        context = GenerationContext(
            state.version.task,
            state.call.flow,
            (state.effective_version or state.version).sha256,
            state.adapter,
            state.settings.priority,
            state.request.listener,
            frozenset(state.settings.stop_token_ids or ()),
        )
        given = state.request.prompts is not None
        texts = [None if given else text.text for text in state.prepared.texts]
        prompts = list(zip(texts, state.prepared.encoded, strict=True))
        state.engine_request, warnings = self.generation.request(context, prompts, parameters, positions)
        state.prepared.warnings.extend(warnings)
        request = state.engine_request
        request.weight, request.deadline = state.call.caller.weight, state.call.deadline
        request.reservation = state.reservation


def _prompts(
    state: RequestState, parameters: GenerateParameters, tokenizer: Tokenizer, vocabulary: int, max_tokens: int
) -> Prepared:
    """The tokens of the prompts of a task that generates. Raises InputTooLong or InvalidRequest."""
    request, settings, truncate = state.request, state.settings, state.truncates
    truncation = _prompt_truncation(parameters, max_tokens)
    if request.chat is not None:
        prompt = chat_prompt(
            tokenizer,
            request.chat,
            template=settings.chat_template,
            system_prompt=settings.system_prompt,
            options=request.chat_options,
        )
        if not request.chat_options.add_special_tokens:
            return prepare_prompt(tokenizer, prompt, max_tokens=max_tokens, truncate=truncate, truncation=truncation)
        texts, template = [Text(prompt)], None
    elif request.prompts is not None:
        return prepare_tokens(
            request.prompts, vocabulary=vocabulary, max_tokens=max_tokens, truncate=truncate, truncation=truncation
        )
    else:
        texts, template = list(request.texts), settings.template
    return prepare(tokenizer, texts, template=template, max_tokens=max_tokens, truncate=truncate, truncation=truncation)


def _prompt_truncation(parameters: GenerateParameters, max_tokens: int) -> PromptTruncation | None:
    """How prompts are truncated; -1 keeps as many tokens as fit with the new ones.

    `max_tokens`: of a prompt, with one new token.
    """
    kept = parameters.truncate_prompt_tokens
    if kept is None:
        return None
    if kept < 0:
        fits = max_tokens + min(parameters.max_new_tokens, 1) - parameters.max_new_tokens
        kept = fits if fits > 0 else max_tokens
    return PromptTruncation(kept, parameters.truncation_side)
