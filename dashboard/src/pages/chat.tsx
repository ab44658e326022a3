import { useRef, useState } from "preact/hooks";
import type { PageOf } from "../app";
import { Refused } from "../api";
import { ReportBar } from "../bill_bar";
import { type Message, stream, type Told } from "../chat_stream";
import { count, digits, seconds } from "../format";
import { AdminsDont, ModelField } from "../model_field";

interface Turn { id: number; message: Message; told?: Told; error?: Refused; ended?: "stopped" | "whole" }

export function Chat({ me, wish }: PageOf) {
  const [model, setModel] = useState(wish.get("model") ?? "");
  const [turns, setTurns] = useState<Turn[]>([]);
  const [prompt, setPrompt] = useState("");
  const [most, setMost] = useState(256);
  const [system, setSystem] = useState("");
  const [running, setRunning] = useState<AbortController | null>(null);
  const next = useRef(0);
  if (me.role === "admin") return <AdminsDont what="Chat" />;

  const change = (id: number, more: Partial<Turn>) => setTurns((all) => all.map((turn) => (turn.id === id ? { ...turn, ...more } : turn)));
  const say = async (event?: Event) => {
    event?.preventDefault();
    if (running !== null || prompt.trim() === "") return;
    const mine: Turn = { id: next.current++, message: { role: "user", content: prompt } };
    const answer: Turn = { id: next.current++, message: { role: "assistant", content: "" } };
    const said = [...turns.filter((turn) => turn.error === undefined && turn.message.content !== "").map((turn) => turn.message), mine.message];
    const messages = system.trim() === "" ? said : [{ role: "system" as const, content: system }, ...said];
    const stopper = new AbortController();
    setTurns([...turns, mine, answer]);
    setPrompt("");
    setRunning(stopper);
    try {
      for await (const told of stream({ model, messages, max_tokens: most }, stopper.signal)) {
        change(answer.id, { message: { role: "assistant", content: told.text }, told });
      }
      change(answer.id, { ended: "whole" });
    } catch (failed) {
      if (stopper.signal.aborted) change(answer.id, { ended: "stopped" });
      else change(answer.id, { error: failed instanceof Refused ? failed : new Refused(failed instanceof Error ? failed.message : String(failed), 0, "unknown") });
    } finally {
      setRunning(null);
    }
  };
  return (
    <>
      <header class="page-head"><h1>Chat</h1>{turns.length > 0 && running === null ? <button onClick={() => setTurns([])}>Begin anew</button> : null}</header>
      <div class="controls">
        <ModelField kind="text" value={model} set={setModel} />
        <label>At most, in tokens
          <input type="number" min={1} max={100000} value={most} onInput={(event) => setMost(Math.max(1, Number(event.currentTarget.value) || 1))} />
        </label>
        <details class="wide"><summary>System prompt</summary>
          <label class="hidden" for="system">System prompt</label>
          <textarea id="system" rows={2} value={system} onInput={(event) => setSystem(event.currentTarget.value)} />
        </details>
      </div>
      <div role="log" aria-label="Conversation" aria-busy={running !== null}><ol class="turns">
        {turns.map((turn) => <Said key={turn.id} turn={turn} live={running !== null && turn.id === turns.at(-1)!.id} />)}
      </ol></div>
      <form class="say" onSubmit={say}>
        <label class="hidden" for="prompt">Message</label>
        <textarea id="prompt" rows={3} value={prompt} placeholder="Say something; Enter sends, Shift+Enter is a new line" onInput={(event) => setPrompt(event.currentTarget.value)}
          onKeyDown={(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) void say(event); }} />
        {running === null ? <button class="primary" disabled={prompt.trim() === "" || model.trim() === ""}>Send</button>
          : <button type="button" class="stop" onClick={() => running.abort()}>Stop</button>}
      </form>
    </>
  );
}

/** What somebody said. A model's text is text: it becomes a text node, whatever it holds. */
function Said({ turn, live }: { turn: Turn; live: boolean }) {
  const { message, told, error } = turn;
  return (
    <li class={`turn ${message.role}`}>
      <p class="speaker">{message.role === "user" ? "You" : "Model"}</p>
      <div class="said">{message.content}{live && message.content === "" ? <span class="small">waiting for the first token…</span> : null}</div>
      {told === undefined ? null : <p class="small meter">{meter(told)}{turn.ended === "stopped" ? "; stopped" : ""}</p>}
      {turn.ended === "stopped" && told === undefined ? <p class="small">stopped before the first token</p> : null}
      {error === undefined ? null : (
        <div class="trouble" role="alert"><p>{error.message}</p>{error.code === "unknown" ? null : <p class="small">{error.status > 0 ? `${error.status} ` : ""}{error.code}</p>}
          <div class="reports">{error.fit.map((report) => <ReportBar key={report.card_id} report={report} />)}</div>
        </div>
      )}
    </li>
  );
}

function meter(told: Told): string {
  const tokens = told.outputTokens === null ? `${count(told.pieces)} pieces so far` : `${count(told.outputTokens)} tokens`;
  const rate = told.perSecond === null ? "" : `, ${digits(told.perSecond)} ${told.outputTokens === null ? "pieces" : "tokens"}/s`;
  return `${tokens}${rate}, first after ${seconds(told.ttftS)}`;
}
