// Asks before something that cannot be undone.
import { signal } from "@preact/signals";
import { announce, announceError } from "../state/announce";
import { Dialog } from "./dialog";

interface Question {
  title: string;
  text: string;
  /** The word on the button. */
  action: string;
  /** Does it. */
  run: () => Promise<void>;
  /** Said once it is done. */
  done: string;
}

const question = signal<Question | null>(null);
const running = signal(false);

export function confirm(asked: Question): void {
  question.value = asked;
}

async function answer({ run, done }: Question): Promise<void> {
  running.value = true;
  try {
    await run();
    announce(done);
  } catch (error) {
    announceError(error);
  } finally {
    running.value = false;
    question.value = null;
  }
}

export function ConfirmDialog() {
  const asked = question.value;
  const close = () => { question.value = null; };
  return (
    <Dialog open={asked !== null} title={asked?.title ?? ""} onClose={close}>
      {asked && (
        <div class="form">
          <p>{asked.text}</p>
          <div class="buttons">
            <button type="button" autofocus onClick={close}>Keep it</button>
            <button type="button" class="danger" disabled={running.value} onClick={() => void answer(asked)}>{asked.action}</button>
          </div>
        </div>
      )}
    </Dialog>
  );
}
