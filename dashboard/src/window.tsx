const SPANS = ["10s", "1m", "5m", "1h"];

/** Which stretch of time the figures are of. */
export function Window({ span, choose }: { span: string; choose: (span: string) => void }) {
  return (
    <label class="inline">
      Figures of the last
      <select value={span} onChange={(event) => choose(event.currentTarget.value)}>
        {SPANS.map((one) => <option key={one} value={one}>{one}</option>)}
      </select>
    </label>
  );
}
