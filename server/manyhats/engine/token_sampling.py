"""The tokens of the sequences of a pass: what is sampled for, before the pass, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch
from torch import Tensor

from manyhats.backbone import StagingBuffer
from manyhats.core.batch import SequenceOutput
from manyhats.core.sequence import Sequence
from manyhats.engine.sampler import SamplingInput, layout_of, sample_staged


class TokenSampling:
    """Samples the next token of each of some sequences, at least one. `vocabulary`: how many logits there are.

    It takes the random numbers at once, so that a pass that fails must call `restore`.
    """

    def __init__(self, sequences: Many[Sequence], vocabulary: int, device: torch.device) -> None:
        self._sequences = sequences
        self._faults: dict[Sequence, Exception] = {}
        inputs = [self._input_of(sequence) for sequence in sequences]
        self._states = [(one.random, one.random.bit_generator.state) for one in inputs if one.random is not None]
        try:
            self._layout = layout_of(inputs, vocabulary, device)
        except Exception:
            self.restore()
            raise

    def _input_of(self, sequence: Sequence) -> SamplingInput:
        """An error of a token constraint fails its own sequence."""
        params = sequence.sampling
        assert params is not None
        constraint: Tensor | None = None
        try:
            constraint = None if sequence.constraint is None else sequence.constraint.bitmask()
        except Exception as error:
            self._faults[sequence] = error
        history = sequence.history
        if history is not None:
            history.follow(sequence.output)
        output = history.output if history is not None else ()
        return SamplingInput(params, sequence.random, sequence.prompt, output, constraint, history)

    def put(self, staging: StagingBuffer) -> None:
        """Puts the parameters into a staging buffer that has not been committed."""
        self._layout.put_into(staging)

    def commit(self, staging: StagingBuffer) -> StagingBuffer:
        """Puts them into a buffer of their own, and returns it, committed."""
        self._layout.put_into(staging)
        if self._layout.arrays:
            staging.commit()
        return staging

    def restore(self) -> None:
        """Gives the random numbers back, so that a retry without some sequence samples the same tokens."""
        for random, state in self._states:
            random.bit_generator.state = state

    def outputs(self, logits: Tensor, staging: StagingBuffer) -> list[SequenceOutput]:
        """One for each sequence. `logits`: (sequences, vocabulary), overwritten; `staging`: with the parameters,
        committed."""
        tokens, finite = sample_staged(logits, self._layout, staging)
        outputs = []
        for sequence, token, fine in zip(self._sequences, tokens, finite, strict=True):
            if not fine:
                outputs.append(SequenceOutput.not_finite(sequence))
                continue
            fault = self._faults.get(sequence)
            outputs.append(SequenceOutput(sequence, None if fault else token, error=fault))
        return outputs
