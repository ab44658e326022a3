import { useId } from "preact/hooks";

interface SliderOf { name: string; value: number; least: number; most: number; step?: number; words: string; set: (value: number) => void }

export function Slider({ name, value, least, most, step = 1, words, set }: SliderOf) {
  const id = useId();
  return (
    <div class="slider">
      <p><label for={id}>{name}</label> <span class="now" aria-hidden="true">{words}</span></p>
      <input id={id} type="range" min={least} max={most} step={step} value={value} aria-valuetext={words} onInput={(event) => set(Number(event.currentTarget.value))} />
    </div>
  );
}
