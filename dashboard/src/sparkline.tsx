import { digits } from "./format";
import type { Figure } from "./types";

const WIDTH = 120;
const HEIGHT = 28;

/** The last minutes as a line. What is unknown leaves a gap. */
export function Sparkline({ values, unit, bucketS }: { values: Figure[] | undefined; unit: string; bucketS: number }) {
  const known = (values ?? []).filter((value) => value !== null);
  if (values === undefined || known.length === 0) return <p class="small">no line yet</p>;
  const highest = Math.max(...known);
  const top = highest || 1;
  const x = (index: number) => (index / (values.length - 1)) * WIDTH;
  const y = (value: number) => HEIGHT - 2 - (value / top) * (HEIGHT - 5);
  const points = values.map((value, index) => (value === null ? null : `${x(index).toFixed(1)},${y(value).toFixed(1)}`))
    .filter((point) => point !== null);
  const first = points[0]!.split(",")[0];
  const label = `${unit}, last ${Math.round((values.length * bucketS) / 60)} minutes: at most ${digits(highest)}, last ${digits(known.at(-1)!)}`;
  return (
    <svg class="sparkline" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={label} preserveAspectRatio="none">
      <line class="ground" x1="0" x2={WIDTH} y1={HEIGHT - 0.5} y2={HEIGHT - 0.5} vector-effect="non-scaling-stroke" />
      <polygon points={`${first},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`} />
      <polyline points={points.join(" ")} vector-effect="non-scaling-stroke" />
    </svg>
  );
}
