"""All targets by name, the quickest first."""

from __future__ import annotations

from tests.fuzz import files, languages, listings, wire
from tests.fuzz.contract import Target

_JSON = (b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"1e999", b"-1", b"9" * 30, b"NaN", b"\\ud800")
_JINJA = (
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"for",
    b"in",
    b"if",
    b"set",
    b"macro",
    b"|",
    b"(",
    b")",
    b"messages",
    b"range(99999)",
)

TARGETS: dict[str, Target] = {
    "names": Target(wire.names, wire.name_seeds, (b"@", b"..", b"/", b"\0", b"=", b":", b"[", b"*", b";"), 8, 300),
    "json-bodies": Target(wire.json_bodies, wire.json_seeds, _JSON, 8),
    "safetensors-header": Target(
        files.header, files.header_seeds,
        (*_JSON, b"dtype", b"shape", b"data_offsets", b"__metadata__", b"F32", b"U8", b"\x00" * 7), 8,
    ),
    "model-card": Target(files.card, files.card_seeds, (*_JSON, b"---\n", b"training_history: ", b"steps"), 4),
    "tensors": Target(wire.tensors, wire.tensor_seeds, (*_JSON, b"\x00\xff", b"BYTES", b"binary_data_size"), 6),
    "tensor-file": Target(files.tensor_file, files.header_seeds, _JSON, 3),
    "keys-file": Target(
        files.keys, files.key_seeds,
        (*_JSON, b'"tasks"', b'"namespace"', b'"requests"', b"/minute", b"5 per day", b"scrypt:", b"admin", b"*"), 4,
    ),
    "listing": Target(
        listings.listing, listings.listing_seeds,
        (*_JSON, b"../", b"/", b"\\", b"rfilename", b"siblings", b"lfs", b"size"), 4,
    ),
    "gzip": Target(wire.gzipped, wire.gzip_seeds, (b"\x1f\x8b\x08", b"\x00\xff", b"\0" * 8), 3),
    "multipart": Target(
        wire.multipart, wire.multipart_seeds,
        (b"\r\n", b"--b", b"--b--", b'name="files"', b'filename="', b"Content-Disposition: form-data; ", b"../"), 3,
    ),
    "http": Target(
        wire.http, wire.http_seeds,
        (b"\r\n", b"\r\n\r\n", b": ", b"Host: a\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked", b"HTTP/1.1",
         b"Upgrade: ", b"Connection: close", b"0\r\n\r\n", b"%", b" "), 2, 1000,
    ),
    "archive": Target(
        files.archive, files.archive_seeds, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"ustar", b"../", b"\0" * 16),
        2, 16 << 10,
    ),
    "chat-template-text": Target(languages.template_texts, languages.template_seeds, _JINJA, 2, 1000),
    "settings": Target(
        files.settings, files.settings_seeds, (b" = ", b"\n", b'"', b"[", b"]", b"_keys", b"inf", b"0x"), 1, 1000
    ),
    "structured-output": Target(
        languages.structured_output, languages.grammar_seeds,
        (*_JSON, b"$ref", b"anyOf", b"pattern", b"start: ", b"root ::= ", b"(", b"){9}", b"|", b"*", b"/"), 1, 400,
    ),
    "adapter-configs": Target(files.configs, files.config_seeds, _JSON, 1, 16 << 10),
    "beside-adapters": Target(files.beside, files.beside_seeds, _JSON, 1),
    "adapter-weights": Target(files.weights, files.weight_seeds, _JSON, 1, 8192),
    "chat-template": Target(languages.templates, languages.template_seeds, _JINJA, 1, 1000),
}  # fmt: skip
