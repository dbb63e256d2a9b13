// Finds the task that a request's body names, for by-task.conf.

// Without a version: all versions of a task are on one server. A body that names none, or is no JSON, has no task; whichever
// server gets it says what is wrong.
function named(text) {
  const body = JSON.parse(text);
  const parameters = body.parameters || {};
  const names = [body.model, body.adapter_id, parameters.adapter_id, body.lora_name];
  const name = names.find((one) => typeof one === "string");
  return name === undefined ? "" : name.split("@")[0];
}

function route(r) {
  try {
    // A body over client_body_buffer_size is in a file, and not here.
    r.variables.manyhats_body_task = named(r.requestText || "{}");
  } catch (e) {
    r.variables.manyhats_body_task = "";
  }
  r.internalRedirect("@manyhats");
}

export default { route };
