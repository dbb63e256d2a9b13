// Text as it is written: completions and chats, of several tasks side by side.
import { useRef } from "preact/hooks";
import { counted, ms } from "../parts/format";
import type { Base } from "../server/types";
import { AsCurl } from "./curl";
import { known, useFacts } from "./facts";
import { AskForm } from "./form";
import { chatting, sampling } from "./kinds/generate";
import { Parameters } from "./parameters";
import { TaskPicker, type Option } from "./picker";
import { chats, completion, conversation, prompt, system, typed, writers } from "./state";
import { TurnView } from "./turn-view";
import type { Turn, Written } from "./turn";
import { useAsking } from "./use-asking";
import { commandOf, write, type Wish } from "./writing";

const READ = 300; // characters of an answer that are read out

function notWriting({ name, kind }: Option): string | undefined {
  return name === "base" || kind === "generate" ? undefined : `${kind ?? "no version"}: writes no text`;
}

export function Generate({ base }: { base: Base }) {
  const asking = useAsking();
  const tasks = writers.value;
  useFacts(tasks);
  const own = tasks.some((task) => known.value[task]?.task?.chat_template);
  const chatty = base.chats || own;
  const chat = chats.value && chatty;
  const shown = chat ? conversation : completion;
  const turns = shown.value;
  const stops = useRef(new Map<string, AbortController>()); // of the tasks that write
  const wishOf = (task: string): Wish => ({
    task, chat, prompt: prompt.value, system: system.value, turns: conversation.value, typed: typed.value.generate ?? {},
  });

  const ask = () => asking.start(async (signal) => {
    const began = performance.now();
    const wishes = tasks.map(wishOf);
    const before = chat ? conversation.value : [];
    let turn: Turn = { id: Date.now(), prompt: prompt.value, written: tasks.map((task) => ({ task, text: "", state: "waiting", tokens: 0 })) };
    shown.value = [...before, turn];
    if (chat) prompt.value = "";
    await Promise.all(wishes.map((wish, i) => {
      const own = new AbortController();
      stops.current.set(wish.task, own);
      return write(wish, AbortSignal.any([signal, own.signal]), (news) => {
        turn = { ...turn, written: turn.written.with(i, { ...(turn.written[i] as Written), ...news }) };
        shown.value = [...before, turn];
      });
    }));
    const failed = turn.written.filter(({ state }) => state === "failed").length;
    if (chat && failed === tasks.length) prompt.value ||= turn.prompt; // to be sent again
    const words = `${counted(tasks.length - failed, "text")} in ${ms(performance.now() - began)}${failed ? `; ${failed} failed` : ""}.`;
    return { shown: words, read: turn.written.map(spoken).join(" ") };
  }, "Writing …");

  const anew = () => {
    conversation.value = [];
    document.getElementById("prompt")?.focus(); // the button goes
  };

  return (
    <div class="asking">
      <AskForm asking={asking} onAsk={ask} action={chat ? "Send" : "Generate"} hindrance={tasks.length ? undefined : "Choose a task first."}>
        <TaskPicker label="Tasks that write" chosen={tasks} base={{ ...base, kind: "generate" }} refusal={notWriting}
          onChange={(names) => { writers.value = names; }} />
        <fieldset class="choices">
          <legend>The text is</legend>
          <label class="check">
            <input type="radio" name="form" checked={chat} disabled={!chatty || asking.busy.value} onChange={() => { chats.value = true; }} /> a message of a chat
          </label>
          <label class="check">
            <input type="radio" name="form" checked={!chat} disabled={asking.busy.value} onChange={() => { chats.value = false; }} /> the beginning of a text
          </label>
          {!chatty && <p class="soft small">No chats: the tokenizer of {base.backbone} has no chat template, nor has a chosen task.</p>}
        </fieldset>
        {chat && (
          <div class="field">
            <label for="system">System prompt</label>
            <textarea id="system" rows={2} value={system.value} placeholder="the task's own, where it has one"
              onInput={(event) => { system.value = event.currentTarget.value; }} />
          </div>
        )}
        <div class="field">
          <label for="prompt">{chat ? "Message" : "Prompt"}</label>
          <textarea id="prompt" rows={4} required value={prompt.value} onInput={(event) => { prompt.value = event.currentTarget.value; }} />
        </div>
        <details>
          <summary>Parameters</summary>
          <Parameters kind="generate" title="Sampling; empty: the task's own, else what the field shows" fields={chat ? chatting : sampling} />
        </details>
        {tasks[0] && <AsCurl {...commandOf(wishOf(tasks[0]))} />}
      </AskForm>
      <section class="stack" aria-labelledby="answers">
        <div class="headed">
          <h2 id="answers">{chat ? "Conversation" : "Texts"}</h2>
          {chat && turns.length > 0 && (
            <button type="button" disabled={asking.busy.value} onClick={anew}>New conversation</button>
          )}
        </div>
        {turns.length ? (
          <ol class="turns">{turns.map((turn) => <TurnView key={turn.id} turn={turn} onStop={(task) => stops.current.get(task)?.abort()} />)}</ol>
        ) : (
          <p class="soft">{chat ? "What you send and what the tasks answer stays here." : "The text appears here while it is written."}</p>
        )}
      </section>
    </div>
  );
}

/** One answer for who does not see it. */
function spoken({ task, text, state, reason }: Written): string {
  if (state === "failed") return `${task} failed: ${reason}`;
  return `${task} ${state === "stopped" ? "was stopped" : "has answered"}: ${text.length > READ ? text.slice(0, READ) + " …" : text}`;
}
