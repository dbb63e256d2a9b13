"""The OpenAPI document against the running server, with requests that schemathesis makes up."""
