import { useRef } from "preact/hooks";
import { announce } from "../state/announce";
import { key, keyAsked, setKey } from "../state/key";
import { Dialog } from "./dialog";

/** Asks for the key that the server wants. */
export function KeyDialog() {
  const field = useRef<HTMLInputElement>(null);
  const close = () => { keyAsked.value = false; };
  const keep = (given: string) => {
    setKey(given);
    announce(key.value ? "The key is used from now on." : "The key is forgotten.");
    close();
  };
  return (
    <Dialog open={keyAsked.value} title="Key" onClose={close}>
      <form onSubmit={(event) => { event.preventDefault(); keep(field.current?.value ?? ""); }}>
        <p id="key-help" class="soft">
          Where the server has keys, every request needs one. It is kept in this tab until the tab is closed.
        </p>
        <label for="key">API key or admin key</label>
        <input id="key" ref={field} type="password" autocomplete="off" aria-describedby="key-help" defaultValue={key.value} />
        <div class="buttons">
          <button class="main">Use this key</button>
          {key.value && <button type="button" onClick={() => keep("")}>Forget the key</button>}
          <button type="button" onClick={close}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}
