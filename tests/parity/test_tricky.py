"""Each of the tricky cases of the libraries' files is tried somewhere; this says where."""

from __future__ import annotations

from tests.parity.peft_cases import METHODS
from tests.references.adapterhub import CASES

# By number: the case, and the tests that hold it where neither PEFT's matrix nor an AdapterHub fixture does.
ELSEWHERE = {
    17: "formats.test_refusals.test_loras_of_a_changed_base",
    23: "formats.test_refusals: T5 and BART are no backbones here",
    24: "parity.test_peft (half precision, the bare model), formats.test_refusals (pickles)",
    34: "formats.test_refusals.test_adapterhub_without_a_version",
    35: "parity.test_sparse.test_a_stack_of_parts_is_read_back (adapters and norms as parts)",
    36: "parity.test_masks, test_sparse, test_side",
}
FIXTURES = {
    26: ("seq_bn", "double_seq_bn", "par_bn"),
    27: ("leave_out", "rfmap", "ln_before", "scaling-channel", "scaling-learned", "gating", "resln-false", "post_add"),
    28: ("seq_bn_inv", "compacter", "mam", "unipelt"),
    29: ("prefix-p5", "prefix-flat"),
    30: ("prompt",),
    31: ("lora-v100-alpha", "ia3", "dora", "gpt2-lora-r4-qv", "llama-lora-r4-mlp"),
    32: ("fusion-dynamic", "fusion-static", "folders"),
    33: ("head1", "head2", "head-pooler", "head-tagging", "static-head"),
}


def test_every_number_has_a_test() -> None:
    from_peft = {number for method in METHODS.values() for number in method.numbers}
    assert from_peft | set(FIXTURES) | set(ELSEWHERE) == set(range(1, 37))


def test_the_fixtures_are_there() -> None:
    for number, stems in FIXTURES.items():
        for stem in stems:
            assert any(stem in name for name in CASES), (number, stem)
