import { dismiss, messages } from "../state/announce";

/** What has happened lately. */
export function Messages() {
  return (
    <div class="messages" role="status" aria-live="polite">
      {messages.value.map(({ id, text, bad }) => (
        <div key={id} class={bad ? "message bad" : "message"}>
          <p>{text}</p>
          <button type="button" class="quiet" aria-label="Dismiss" onClick={() => dismiss(id)}>×</button>
        </div>
      ))}
    </div>
  );
}
