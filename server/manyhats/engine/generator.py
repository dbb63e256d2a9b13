"""Writes many texts at once: continuous batching over blocks of the key-value cache.

Every step takes one token further of each text whose prompt has been read, and reads on in prompts as far as the token
budget lets it; texts join and leave between any two steps. Where the cache is full the youngest text gives its blocks
up and is read again later; nothing fails for it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from manyhats.backbone import Actors, Backbone, PackedBatch, pack_pieces
from manyhats.backbone.cache import KeyValueCache
from manyhats.engine.blocks import BLOCK, BlockPool, first_key, next_key, rows_of
from manyhats.engine.forward import vocabulary_logits
from manyhats.engine.sampling import NO_TOKEN, Chosen, Draw, choose
from manyhats.engine.scoring import score_pass
from manyhats.engine.settle import settle
from manyhats.engine.stream import Delta, Stream, Writing
from manyhats.engine.whole import whole_pass
from manyhats.errors import EngineFailure, InvalidRequest
from manyhats.methods.adapter import BoundAdapter
from manyhats.methods.plan import Plan, in_batch_order, segments_of

logger = logging.getLogger(__name__)

Turn = list[tuple[Stream, int]]  # texts, and how many of their tokens go into a pass
Read = tuple[list[Stream], Tensor | None]  # texts that have been read to their end, and their logits


class Generator:
    """The texts under way. What reads or changes the queues (`add`, `waiting`, `arrange`, `abandon`) runs under the
    engine's lock; all else is the model's thread's.

    `cache_bytes`: room for keys and values; `step_tokens`: the most tokens of one pass; `most`: the most texts at once.
    """

    def __init__(self, backbone: Backbone, *, cache_bytes: int, step_tokens: int, most: int) -> None:
        self.backbone = backbone
        self.step_tokens = max(step_tokens, most)
        self.most = most
        row = KeyValueCache.row_bytes(backbone.layers, backbone.kv_shape, backbone.dtype)
        self.pool = BlockPool(max(cache_bytes // (row * BLOCK), 1))
        self._cache: KeyValueCache | None = None
        self._waiting: dict[str, deque[Stream]] = {}
        self._running: list[Stream] = []  # oldest first
        self._planned: tuple[list[BoundAdapter], tuple[int, ...], Plan, Actors] | None = None
        self._finished: list[Writing] = []  # in this pass
        self.preempted = 0  # times that a text gave its blocks up
        self.reused = 0  # tokens of prompts that were found in the cache

    @property
    def rows(self) -> int:
        """Rows of the cache: the most places that one text can have, its adapter's prefix included."""
        return self.pool.count * BLOCK

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write."""
        return not self._running and not self._waiting

    @property
    def running(self) -> int:
        """Texts that have their place."""
        return len(self._running)

    def add(self, writing: Writing) -> None:
        """Takes texts in."""
        self._waiting.setdefault(writing.task, deque()).extend(writing.streams)

    def waiting(self) -> dict[str, int]:
        """Texts that have no place yet, by task."""
        return {task: len(queue) for task, queue in self._waiting.items()}

    def capacity(self, adapter: BoundAdapter) -> int:
        """The most tokens that one text may have."""
        if adapter.whole:
            return self.backbone.max_tokens
        shared = -(-adapter.prefix_rows // BLOCK)
        return (self.pool.count - shared) * BLOCK - adapter.virtual_tokens

    def abandon(self, error: Exception) -> None:
        """Fails all that is there."""
        for stream in [*self._running, *(s for queue in self._waiting.values() for s in queue)]:
            self._fail(stream, error)
        self._waiting.clear()
        self._planned = None

    # ---- who takes part

    def arrange(self) -> Turn:
        """Who takes part in the next pass. Under the engine's lock."""
        with torch.inference_mode():
            self._drop_cancelled()
            self._admit()
            return self._turn()

    def _drop_cancelled(self) -> None:
        for stream in [s for s in self._running if s.writing.future.done()]:
            self._leave(stream)
        for task, queue in list(self._waiting.items()):
            if any(s.writing.future.done() for s in queue):
                self._replace(task, deque(s for s in queue if not s.writing.future.done()))

    def _replace(self, task: str, queue: deque[Stream]) -> None:
        if queue:
            self._waiting[task] = queue
        else:
            self._waiting.pop(task, None)

    def _admit(self) -> None:
        """Those join whose task has the fewest texts under way, the oldest of them first."""
        if not self._waiting:
            return
        reading = {key for s in self._running for key in self._unread(s)}
        skipped: set[str] = set()
        while len(self._running) < self.most:
            counts = Counter(s.writing.task for s in self._running)
            tasks = [task for task in self._waiting if task not in skipped]
            if not tasks:
                return
            task = min(tasks, key=lambda t: (counts[t], self._waiting[t][0].writing.due))
            stream = self._waiting[task][0]
            if self._waits(stream, reading):
                skipped.add(task)
                continue
            if self._running and not stream.adapter.whole and self.pool.available < -(-stream.length // BLOCK) + 1:
                return
            try:
                if not self._begin(stream):
                    return
            except Exception as error:
                logger.error("a text of the task %s cannot begin", task, exc_info=error)
                self._fail(stream, error)
                self._drop_cancelled()
                continue
            self._waiting[task].popleft()
            self._replace(task, self._waiting[task])
            self._running.append(stream)
            reading |= self._unread(stream)

    def _waits(self, stream: Stream, reading: set[bytes]) -> bool:
        """Whether another text is just reading the same beginning, or scores the same prompt."""
        if stream.unscored:
            return not stream.scorer
        missing = next((key for key in stream.prompt_keys() if not self.pool.knows(key)), None)
        return missing is not None and missing in reading

    def _unread(self, stream: Stream) -> set[bytes]:
        """Keys of the prompt's blocks that it is about to fill."""
        if stream.length - stream.computed <= 1:
            return set()
        return set(stream.prompt_keys()[stream.computed // BLOCK :])

    def _begin(self, stream: Stream) -> bool:
        """Gives a text its adapter's prefix and what the cache knows of its beginning; False where there is no room."""
        if stream.adapter.whole:
            return True
        if not self._share_prefix(stream):
            return False
        for key in [] if stream.unscored else stream.prompt_keys():  # the cache has no logits
            block = self.pool.find(key)
            if block is None:
                break
            stream.blocks.append(block)
        stream.computed = len(stream.blocks) * BLOCK
        if stream.computed < stream.virtual:  # its virtual tokens are entered in one piece
            self.pool.give_back(stream.blocks)
            stream.blocks, stream.computed = [], 0
        self.reused += max(stream.computed - stream.virtual, 0)
        self._lay_rows(stream)
        return True

    def _share_prefix(self, stream: Stream) -> bool:
        """The rows of the adapter's prefix, which all its texts see and which are stored once."""
        stream.prefix = stream.adapter.prefix_rows
        count = -(-stream.prefix // BLOCK)
        start = first_key(f"prefix {stream.writing.digest}")
        keys = [next_key(start, [i]) for i in range(count)]
        found = [self.pool.find(key) for key in keys]
        if all(block is not None for block in found):
            stream.shared = [block for block in found if block is not None]
            return True
        self.pool.give_back([block for block in found if block is not None])
        if self.pool.available < count:
            return False
        stream.shared = [block for block in (self.pool.take() for _ in keys) if block is not None]
        rows = torch.from_numpy(rows_of(stream.shared)[: stream.prefix]).to(self.backbone.device)
        for layer in range(self.backbone.layers):  # before they are remembered: a failure leaves nothing half written
            self.cache.write(layer, rows, *stream.adapter.prefix(layer))
        for block, key in zip(stream.shared, keys, strict=True):
            self.pool.remember(block, key)
        return True

    @property
    def cache(self) -> KeyValueCache:
        """Made when the first text needs it."""
        if self._cache is None:
            b = self.backbone
            self._cache = KeyValueCache(self.rows, b.layers, b.kv_shape, b.device, b.dtype)
        return self._cache

    def _lay_rows(self, stream: Stream) -> None:
        stream.rows = np.concatenate([rows_of(stream.shared)[: stream.prefix], rows_of(stream.blocks)])

    def _turn(self) -> Turn:
        """Those that write first, then those that read, as far as the token budget goes."""
        left = self.step_tokens
        turn: Turn = []
        wholes = 0
        order = sorted(self._running, key=lambda s: s.adapter.whole or s.length - s.computed > 1)
        for stream in order:
            if stream not in self._running:  # gave its blocks up for one before
                continue
            wanted = stream.length if stream.adapter.whole else stream.length - stream.computed
            if stream.adapter.whole:
                if wholes and wanted > left:
                    continue
                count = wanted  # the first goes whatever its length, or it might wait for ever
                wholes += 1
            else:
                least = stream.virtual + 1 if stream.computed < stream.virtual else 1
                count = min(wanted, max(left, least if not turn else 0))
                if count < least:
                    continue
                if not self._make_room(stream, stream.computed + count):
                    continue
            turn.append((stream, count))
            left -= count
            if left <= 0:
                break
        return [(stream, count) for stream, count in turn if stream in self._running]

    def _make_room(self, stream: Stream, length: int) -> bool:
        """Blocks for so many places, the youngest texts' if need be; False where the text gave up its own."""
        grown = False
        while len(stream.blocks) * BLOCK < length:
            block = self.pool.take()
            if block is not None:
                stream.blocks.append(block)
                grown = True
                continue
            youngest = next(s for s in reversed(self._running) if s.blocks or s is stream)
            self._preempt(youngest)
            if youngest is stream:
                return False
        if grown:
            self._lay_rows(stream)
        return True

    def _preempt(self, stream: Stream) -> None:
        self.preempted += 1
        self._leave(stream)
        self._waiting.setdefault(stream.writing.task, deque()).appendleft(stream)

    def _leave(self, stream: Stream) -> None:
        """Gives up its place, its blocks and its part of the prefix."""
        if stream in self._running:
            self._running.remove(stream)
        self.pool.give_back(stream.shared)
        self.pool.give_back(stream.blocks)
        stream.shared, stream.blocks, stream.computed, stream.remembered = [], [], 0, 0
        self._planned = None  # it holds adapters that may have to leave their slots

    # ---- the pass

    def advance(self, turn: Turn, before_done: Callable[[], None] = lambda: None) -> None:
        """Takes each text further by its tokens. An adapter's fault fails its own texts alone.

        `before_done` is called before those who wait for finished texts are told.
        """
        self._advance(turn)
        before_done()
        finished, self._finished = self._finished, []
        for writing in finished:
            settle(writing.future, None)

    def _advance(self, turn: Turn) -> None:
        whole = [stream for stream, _ in turn if stream.adapter.whole]
        pieces = [(stream, count) for stream, count in turn if not stream.adapter.whole]
        try:
            with torch.inference_mode():
                done = [whole_pass(self.backbone, whole), self._pass(pieces)]
        except Exception as error:
            adapters = list({id(stream.adapter): stream.adapter for stream, _ in turn}.values())
            if len(adapters) == 1:
                logger.error("a pass of the task %s failed", turn[0][0].writing.task, exc_info=error)
                for stream, _ in turn:
                    self._fail(stream, error)
                return
            for adapter in adapters:
                self._advance([(stream, count) for stream, count in turn if stream.adapter is adapter])
            return
        with torch.inference_mode():
            for streams, logits in done:
                if logits is not None:
                    self._choose(streams, logits)
        for stream in [s for s, _ in turn if not s.room and (s.adapter.whole or s.computed == s.length)]:
            stream.finished = "length"
            self._tell(stream, None, "")

    def _pass(self, turn: Turn) -> Read:
        """The new tokens of all these texts; the logits of those that have been read to their end."""
        if not turn:
            return [], None
        dressed: list[tuple[BoundAdapter, Stream, int]] = []
        for stream, count in turn:
            begins = stream.virtual > 0 and stream.computed == 0
            dressed.append((stream.adapter.starting if begins else stream.adapter.resumed, stream, count))
        dressed = in_batch_order(dressed, lambda one: one[0])
        pieces = [stream.piece(count) for _, stream, count in dressed]
        batch = pack_pieces(self.backbone, self.cache, pieces)
        plan, actors = self._plan([adapter for adapter, _, _ in dressed], batch)
        states = self.backbone.encode(batch, actors)
        places: list[list[int]] = []
        ended: list[Stream] = []
        for i, (_, stream, count) in enumerate(dressed):
            last = stream.computed + count == stream.length and stream.room > 0
            places.append([batch.starts[i + 1] - 1] if last else [])
            if last:
                ended.append(stream)
        logits = vocabulary_logits(self.backbone, plan, states, places)
        asked = [stream.scoring(count, start) for (_, stream, count), start in zip(dressed, batch.starts, strict=False)]
        score_pass(self.backbone, plan, states, asked)
        for _, stream, count in dressed:
            stream.computed += count
            keys = stream.prompt_keys()[: stream.computed // BLOCK]
            for i in range(stream.remembered, len(keys)):
                self.pool.remember(stream.blocks[i], keys[i])
            stream.remembered = len(keys)
        return ended, logits

    def _plan(self, adapters: list[BoundAdapter], batch: PackedBatch) -> tuple[Plan, Actors]:
        """Who acts where; the last one again where the same adapters have as many tokens each, as in most steps."""
        same = self._planned
        if same is not None and same[0] == adapters and same[1] == batch.lengths:
            return same[2], same[3]
        plan = Plan(self.backbone, segments_of(adapters))
        actors = plan.token_actors(batch)
        self._planned = None if actors.states else (adapters, batch.lengths, plan, actors)
        return plan, actors

    def _choose(self, streams: Sequence[Stream], logits: Tensor) -> None:
        """The next token of each. logits: (streams, vocabulary). A form that cannot be followed fails its own text."""
        finite = torch.isfinite(logits.amax(-1)).tolist()
        draws = []
        faults: dict[Stream, Exception] = {}
        for stream in streams:
            written = [chosen.token for chosen in stream.tokens] if stream.sampling.looks_back else []
            allowed = None
            try:
                allowed = stream.allowed_tokens(logits.device)
            except Exception as error:
                faults[stream] = error
            draws.append(Draw(stream.sampling, stream.random, stream.prompt, written, allowed, stream.ends))
        for stream, chosen, fine in zip(streams, choose(logits, draws), finite, strict=True):
            try:
                if not fine:
                    raise EngineFailure(f"the task {stream.writing.task} gives values that are not finite")
                if stream in faults:
                    raise faults[stream]
                if chosen.token == NO_TOKEN:
                    raise _no_token(stream)
                self._take(stream, chosen)
            except Exception as error:
                self._fail(stream, error)

    def _take(self, stream: Stream, chosen: Chosen) -> None:
        over = stream.grammar.accept(chosen.token) if stream.grammar else False
        kept = chosen.token in stream.kept_ends
        if chosen.token in stream.ends and not kept:
            stream.finished, stream.ended_by = "stop", chosen
            self._tell(stream, None, "")
            return
        stream.tokens.append(chosen)
        stream.ready_at.append(time.monotonic())
        piece = stream.text.push(chosen.token)
        if over and len(stream.tokens) < stream.sampling.min_tokens:
            raise _no_token(stream)
        if stream.text.stop is not None or over or kept:
            stream.finished = "stop"
        elif len(stream.tokens) >= stream.room:
            stream.finished = "length"
        self._tell(stream, chosen, piece)

    def _tell(self, stream: Stream, chosen: Chosen | None, piece: str) -> None:
        """What a step added to a text. One that is finished leaves."""
        if stream.finished:
            piece += stream.text.finish()
            if stream.text.stop is not None:  # in what was held back
                stream.finished = "stop"
            self._leave(stream)
        if stream.writing.listener is not None:
            stream.writing.listener(Delta(stream, piece, chosen, stream.finished))
        if stream.finished:
            stream.writing.left -= 1
            if not stream.writing.left:
                self._finished.append(stream.writing)

    def _fail(self, stream: Stream, error: Exception) -> None:
        self._leave(stream)
        settle(stream.writing.future, error)


def _no_token(stream: Stream) -> InvalidRequest:
    return InvalidRequest(
        f"after {len(stream.tokens)} tokens of the answer its constraints leave no token that may follow: the form, "
        "allowed_token_ids, bad_words and min_tokens together",
        param="parameters",
    )
