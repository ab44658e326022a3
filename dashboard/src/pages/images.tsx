import { useEffect, useState } from "preact/hooks";
import type { PageOf } from "../app";
import { Refused } from "../api";
import { ReportBar } from "../bill_bar";
import { digits } from "../format";
import { forget, keep, type Picture, pictures } from "../gallery";
import { paint, type Progress } from "../image_stream";
import { AdminsDont, ModelField } from "../model_field";

interface Wish { model: string; prompt: string; negative: string; size: string; steps: number; seed: string }

export function Images({ me, wish }: PageOf) {
  const [asked, setAsked] = useState<Wish>({ model: wish.get("model") ?? "", prompt: "", negative: "", size: "auto", steps: 20, seed: "" });
  const [progress, setProgress] = useState<Progress | null>(null);
  const [running, setRunning] = useState<AbortController | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  const [made, setMade] = useState<Picture[]>([]);
  useEffect(() => void pictures().then(setMade), []);
  if (me.role === "admin") return <AdminsDont what="Images" />;

  const change = (more: Partial<Wish>) => setAsked((before) => ({ ...before, ...more }));
  const go = async (event: Event) => {
    event.preventDefault();
    const stopper = new AbortController();
    setRunning(stopper);
    setError(null);
    setProgress(null);
    try {
      for await (const told of paint(questionOf(asked), stopper.signal)) {
        if ("step" in told) setProgress(told);
        else {
          const picture: Picture = { at: Date.now(), model: asked.model, prompt: asked.prompt, size: asked.size, steps: asked.steps, seed: told.seed, data: told.data };
          setMade((all) => [picture, ...all]);
          await keep(picture).catch(() => undefined); // shown all the same where the browser keeps nothing
        }
      }
    } catch (failed) {
      if (!stopper.signal.aborted) setError(failed instanceof Refused ? failed : new Refused(failed instanceof Error ? failed.message : String(failed), 0, "unknown"));
    } finally {
      setRunning(null);
      setProgress(null);
    }
  };
  return (
    <>
      <header class="page-head"><h1>Images</h1></header>
      <form class="controls" onSubmit={go}>
        <ModelField kind="image" value={asked.model} set={(model) => change({ model })} />
        <label>Size<input value={asked.size} onInput={(event) => change({ size: event.currentTarget.value })} pattern="auto|[0-9]+x[0-9]+" title="auto, or for example 512x512" spellcheck={false} /></label>
        <label>Steps<input type="number" min={1} max={150} value={asked.steps} onInput={(event) => change({ steps: Number(event.currentTarget.value) || 1 })} /></label>
        <label>Seed<input value={asked.seed} inputMode="numeric" pattern="[0-9]*" placeholder="any" onInput={(event) => change({ seed: event.currentTarget.value })} /></label>
        <label class="wide">Prompt<textarea rows={2} value={asked.prompt} maxLength={4000} onInput={(event) => change({ prompt: event.currentTarget.value })} /></label>
        <label class="wide">Not in the picture<input value={asked.negative} maxLength={4000} onInput={(event) => change({ negative: event.currentTarget.value })} /></label>
        {running === null ? <button class="primary" disabled={asked.prompt.trim() === "" || asked.model.trim() === ""}>Paint</button>
          : <button type="button" class="stop" onClick={() => running.abort()}>Stop</button>}
      </form>
      {running === null ? null : <Painting progress={progress} />}
      {error === null ? null : (
        <div class="trouble" role="alert"><p>{error.message}</p>{error.code === "unknown" ? null : <p class="small">{error.status > 0 ? `${error.status} ` : ""}{error.code}</p>}
          <div class="reports">{error.fit.map((report) => <ReportBar key={report.card_id} report={report} />)}</div>
        </div>
      )}
      <div class="page-head made"><h2>Made here</h2>{made.length === 0 ? null : <button onClick={() => { setMade([]); void forget(); }}>Remove all</button>}</div>
      <p class="small">Kept in this browser only: the last 24.</p>
      {made.length === 0 ? <p class="empty">Nothing yet.</p> : null}
      <ul class="gallery" aria-label="Pictures">
        {made.map((picture) => <Shown key={picture.at} picture={picture} drop={() => { setMade((all) => all.filter((one) => one !== picture)); void forget(picture.at); }} />)}
      </ul>
    </>
  );
}

function questionOf(wish: Wish): Record<string, unknown> {
  const question: Record<string, unknown> = { model: wish.model, prompt: wish.prompt, size: wish.size, steps: wish.steps };
  if (wish.negative.trim() !== "") question["negative_prompt"] = wish.negative;
  if (/^[0-9]+$/.test(wish.seed)) question["seed"] = Number(wish.seed);
  return question;
}

function Painting({ progress }: { progress: Progress | null }) {
  const words = progress === null ? "waiting for a card…" : `step ${progress.step} of ${progress.steps}`;
  const rate = progress?.perSecond ? `, ${digits(progress.perSecond)} steps/s` : "";
  return (
    <div class="painting">
      <progress aria-label="Painting" max={progress?.steps ?? 1} value={progress?.step ?? 0} />
      <p class="small" role="status">{words}{rate}</p>
    </div>
  );
}

function Shown({ picture, drop }: { picture: Picture; drop: () => void }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    const made = URL.createObjectURL(picture.data);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [picture.data]);
  const details = [picture.model, picture.size, `${picture.steps} steps`, picture.seed === null ? null : `seed ${picture.seed}`].filter(Boolean).join(", ");
  return (
    <li>
      {url === "" ? null : <img src={url} alt={picture.prompt} />}
      <p>{picture.prompt}</p>
      <p class="small">{details}</p>
      <p class="acts"><a href={url} download={`rigserve-${picture.at}.png`}>Save<span class="hidden"> the picture of {picture.prompt}</span></a>{" "}
        <button class="plain" onClick={drop}>Remove<span class="hidden"> the picture of {picture.prompt}</span></button></p>
    </li>
  );
}
