import { useState } from "preact/hooks";
import { BillBar } from "../bill_bar";
import { celsius, digits, gib, seconds, watts } from "../format";
import { Fact, Known, Simulated, State, Trouble } from "../known";
import { usePolled } from "../polling";
import { Sparkline } from "../sparkline";
import { Totals } from "../totals";
import type { Bill, Card, Cards as CardList, Flow, History, Line, Throughput } from "../types";
import { Window } from "../window";

const EVERY_S = 3;

export function Cards() {
  const [span, setSpan] = useState("1m");
  const cards = usePolled<CardList>("/v1/cards", EVERY_S);
  const flow = usePolled<Throughput>(`/v1/throughput?window=${span}`, EVERY_S);
  const past = usePolled<History>("/v1/throughput/history", 5);
  const rows = cards.data?.data ?? [];
  return (
    <>
      <header class="page-head">
        <h1>Cards</h1>
        <Window span={span} choose={setSpan} />
      </header>
      <Trouble error={cards.error ?? flow.error} />
      {flow.data === null ? null : <Totals flow={flow.data} ready={ready(cards.data)} />}
      <ul class="rows" aria-label="Cards">
        {rows.map((card) => (
          <CardRow key={card.id} card={card} flow={of(flow.data?.cards, card.id)} line={of(past.data?.cards, card.id)} bucketS={past.data?.bucket_s ?? 5} />
        ))}
      </ul>
      {cards.data !== null && rows.length === 0 ? <p class="empty">This gateway runs without a plan, so it knows no cards.</p> : null}
      {cards.data !== null && cards.data.backends.length > 0 ? <Servers backends={cards.data.backends} /> : null}
    </>
  );
}

const of = <T extends { id: string }>(all: T[] | undefined, id: string): T | undefined => all?.find((one) => one.id === id);

function ready(cards: CardList | null): string {
  const placed = [...(cards?.data ?? []).flatMap((card) => card.placements), ...(cards?.backends ?? [])];
  return `${placed.filter((one) => one.state === "ready" && !one.ejected).length} of ${placed.length}`;
}

function CardRow({ card, flow, line, bucketS }: { card: Card; flow: Flow | undefined; line: Line | undefined; bucketS: number }) {
  const paints = card.placements.some((placement) => placement.workload.kind === "image");
  const writes = card.placements.some((placement) => placement.workload.kind === "text") || !paints;
  const silent = card.placements.length === 0 ? "nothing is planned on this card" : "not measured yet";
  const why = (name: string) => (card.placements.length === 0 ? silent : flow?.reasons[name] ?? silent);
  return (
    <li class="row card" aria-label={card.name}>
      <div class="row-head">
        <h2>{card.name}</h2>
        {card.simulated ? <Simulated /> : null}
        {card.state === null ? null : <State state={card.state} />}
        <span class="small id">{card.id}</span>
      </div>
      {card.state_reason ? <p class="small">{card.state_reason}</p> : null}
      <p class="models">
        {card.placements.length === 0 ? <span class="small">no model</span> : card.placements.map((placement) => (
          <span class="model" key={placement.id} title={placement.reason ?? ""}>{placement.model_id} <State state={placement.ejected ? "out of service" : placement.state} /></span>
        ))}
      </p>
      <dl class="facts">
        {writes ? (
          <Fact name="Output tok/s">
            <Known value={flow?.output_tokens_per_s} why={why("output_tokens_per_s")} show={digits} />
            {card.placements.length === 0 ? null : <Sparkline values={line?.output_tokens_per_s} unit="Output tokens per second" bucketS={bucketS} />}
          </Fact>
        ) : null}
        {paints ? (
          <Fact name="Denoise steps/s">
            <Known value={flow?.denoise_steps_per_s} why={why("denoise_steps_per_s")} show={digits} />
            <Sparkline values={line?.denoise_steps_per_s} unit="Denoise steps per second" bucketS={bucketS} />
          </Fact>
        ) : null}
        <Fact name="TTFT p95">
          <Known value={flow?.ttft_s.p95} why={why("ttft_s")} show={(value) => `${seconds(value)} (n ${flow?.ttft_s.n})`} />
        </Fact>
        <Fact name="Power"><Known value={card.telemetry?.power_watts} why={noReading(card)} show={watts} /></Fact>
        <Fact name="Tokens per joule"><PerJoule card={card} flow={flow} why={why("output_tokens_per_s")} /></Fact>
        <Fact name="Temperature"><Known value={card.telemetry?.temperature_c} why={noReading(card)} show={celsius} /></Fact>
        <Fact name="PCIe link"><Link card={card} /></Fact>
      </dl>
      <Vram card={card} />
    </li>
  );
}

const noReading = (card: Card): string =>
  card.simulated ? "a simulated card has no sensors" : card.telemetry === null
    ? card.placements.length === 0 ? "no worker watches this card" : "no worker of this card answers" : "its driver does not tell";

/** As the gateway measured it; else the window's tokens per second over the watts of this moment. */
function PerJoule({ card, flow, why }: { card: Card; flow: Flow | undefined; why: string }) {
  const power = card.telemetry?.power_watts;
  const rate = flow?.output_tokens_per_s;
  const said = flow?.output_tokens_per_joule;
  const value = said ?? (power && rate !== null && rate !== undefined ? rate / power : null);
  return <Known value={value} why={power ? why : noReading(card)} show={digits} />;
}

function Link({ card }: { card: Card }) {
  const width = card.telemetry?.pcie_width ?? card.link?.width ?? null;
  const generation = card.telemetry?.pcie_generation ?? card.link?.generation ?? null;
  return <Known value={width} why={card.simulated ? "a simulated card has no link" : "nobody has read it"}
    show={(lanes) => `x${lanes}${generation === null ? "" : ` gen ${generation}`}`} />;
}

function Vram({ card }: { card: Card }) {
  const bills = card.placements.map((placement) => placement.bill).filter((bill): bill is Bill => bill !== null);
  const used = card.telemetry?.used_bytes ?? (card.placements.length === 0 ? null : card.resident_bytes); // of no engine's, a sum of 0
  if (bills.length < card.placements.length) return <p class="unknown">unknown: a placement of this card has no bill</p>;
  return (
    <>
      <BillBar bills={bills} haveBytes={card.total_bytes} title={`Memory of ${card.name}, by bill`} />
      <p class="small">
        {gib(card.total_bytes)} in all; in use now: <Known value={used} show={gib}
          why={card.placements.length === 0 ? "no worker watches this card" : "no worker has said it"} />
      </p>
    </>
  );
}

function Servers({ backends }: { backends: CardList["backends"] }) {
  return (
    <section>
      <h2>Servers without a card</h2>
      <p class="small">Named with --backend; what they run on is not known here.</p>
      <ul class="rows" aria-label="Servers without a card">
        {backends.map((backend) => (
          <li class="row" key={backend.id}>
            <div class="row-head"><h3>{backend.model_id}</h3><State state={backend.ejected ? "out of service" : backend.state} /><span class="small id">{backend.url}</span></div>
            {backend.reason ? <p class="small">{backend.reason}</p> : null}
          </li>
        ))}
      </ul>
    </section>
  );
}
