"""Questions to tasks that write, greedy and seeded, whole and as streams, with and without stop strings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from soak.questions import Found, Question

NEAR = 2e-3  # of two log probabilities, and of a temperature: the other token may come as well
SHORT, LONG = 8, 24  # tokens of a text
# A prompt, and parameters in the words of our own route. A seed with a temperature draws the same tokens always.
SPECS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the cat sat", {"max_new_tokens": SHORT}),
    ("the cat sat on the mat and the dog", {"max_new_tokens": LONG}),
    ("the dog too", {"max_new_tokens": LONG, "temperature": 0.9, "seed": 11}),
    ("the mat", {"max_new_tokens": SHORT, "temperature": 1.0, "top_k": 20, "seed": 5}),
    ("the cat and the dog and the mat", {"max_new_tokens": LONG, "temperature": 1.2, "top_p": 0.9, "seed": 7}),
    ("and the dog", {"max_new_tokens": LONG, "temperature": 1.5, "seed": 3, "stop": ["t", "e", " "]}),
)  # fmt: skip


class DecoderWork:
    """Texts and the tokens that they are made of."""

    texts = len(SPECS)

    def alone(self, ref: str, kind: str, text: int) -> Question:
        return self._predict(ref, text)

    def reference(self, kind: str, body: Any) -> dict[str, Any]:
        output = body["outputs"][0]
        tokens, text, finish = output["tokens"], output["text"], output["finish_reason"]
        return {"tokens": (tokens, text, finish), "text": (text, finish)}

    def ask(self, pick: random.Random, tasks: Sequence[tuple[str, str]]) -> Question:
        ref, text = tasks[0][0], pick.randrange(self.texts)
        route = pick.choice(("predict", "predict", "stream", "completions", "completions stream", "generate", "many"))
        match route:
            case "predict" | "stream":
                return self._predict(ref, text, streamed=route == "stream")
            case "completions" | "completions stream":
                return self._completions(ref, text, streamed=route != "completions")
            case "generate":
                return self._generate(ref, text)
            case _:
                refs = tuple(dict.fromkeys(ref for ref, _ in tasks))
                prompt, parameters = SPECS[text]
                body = {"tasks": list(refs), "inputs": prompt, "parameters": parameters}
                return Question("many", "/v1/predict", body, refs, text)

    def read(self, question: Question, body: Any) -> list[Found]:
        ref = question.refs[0]
        match question.route:
            case "many":
                return [
                    _of_output(one, item) if "error" not in item else Found(one, code=item["error"]["code"])
                    for one, item in zip(question.refs, body["results"], strict=True)
                ]
            case "predict":
                return [_of_output(ref, body)]
            case "stream":
                deltas = [event for event in body if "input" in event]
                tokens = [token for event in deltas for token in event["tokens"]]
                text = "".join(event["text"] for event in deltas)
                digest = next((event["sha256"] for event in body if "sha256" in event), None)
                return [Found(ref, digest, "tokens", (tokens, text, deltas[-1]["finish_reason"]))]
            case "completions":
                choice = body["choices"][0]
                return [Found(ref, None, "text", (choice["text"], choice["finish_reason"]))]
            case "completions stream":
                choices = [choice for event in body for choice in event["choices"]]
                text = "".join(choice["text"] for choice in choices)
                return [Found(ref, None, "text", (text, choices[-1]["finish_reason"]))]
            case "generate":
                details = body["details"]
                finish = {"length": "length", "stop_sequence": "stop", "eos_token": "stop"}[details["finish_reason"]]
                return [Found(ref, None, "text", (body["generated_text"], finish))]
        raise ValueError(question.route)

    def same(self, what: str, value: Any, reference: dict[str, Any]) -> bool:
        return _plain(value) == _plain(reference[what])

    def _predict(self, ref: str, text: int, *, streamed: bool = False) -> Question:
        prompt, parameters = SPECS[text]
        body = {"inputs": prompt, "parameters": parameters | ({"stream": True} if streamed else {})}
        route = "stream" if streamed else "predict"
        return Question(route, f"/v1/tasks/{ref}/predict", body, (ref,), text, streamed)

    def _completions(self, ref: str, text: int, *, streamed: bool) -> Question:
        prompt, parameters = SPECS[text]
        own = {"temperature": 0} | {k: v for k, v in parameters.items() if k != "max_new_tokens"}
        body = {"model": ref, "prompt": prompt, "max_tokens": parameters["max_new_tokens"], "stream": streamed} | own
        route = "completions stream" if streamed else "completions"
        return Question(route, "/v1/completions", body, (ref,), text, streamed)

    def _generate(self, ref: str, text: int) -> Question:
        prompt, parameters = SPECS[text]
        if "stop" in parameters or "temperature" in parameters:  # TGI leaves stop strings in the text
            return self._completions(ref, text, streamed=False)
        body = {"inputs": prompt, "parameters": parameters | {"adapter_id": ref, "details": True}}
        return Question("generate", "/generate", body, (ref,), text)


def near_ties(spec: int) -> list[dict[str, Any]]:
    """Parameters that move every draw of a seeded text a little: a token that stands at the border between two
    changes under one of them, and others do not. Nothing for a greedy text, whose ties its log probabilities tell."""
    parameters = SPECS[spec][1]
    if "temperature" not in parameters:
        return []
    moves = [sign * NEAR * 10**-power for power in (0, 1, 2) for sign in (1, -1)]
    return [parameters | {"temperature": parameters["temperature"] * (1 + move)} for move in moves]


def agrees_where_near(value: Any, reference: dict[str, Any], logprobs: Sequence[dict[str, Any]]) -> bool:
    """Whether a greedy text leaves the reference at a token that was as likely. `logprobs`: of the reference's tokens,
    as our own route gives them."""
    found = value[0]
    wanted = reference["tokens"][0]
    if not isinstance(found, list):
        found = None
    for i, at in enumerate(logprobs):
        likely = [top["token"] for top in at["top"] if at["top"][0]["logprob"] - top["logprob"] <= NEAR]
        if len(likely) > 1 and (found is None or (found[:i] == wanted[:i] and found[i : i + 1] and found[i] in likely)):
            return True
    return False


def _of_output(ref: str, body: Any) -> Found:
    output = body["outputs"][0]
    return Found(ref, body["sha256"], "tokens", (output["tokens"], output["text"], output["finish_reason"]))


def _plain(value: Any) -> Any:
    return [list(part) if isinstance(part, tuple) else part for part in value]
