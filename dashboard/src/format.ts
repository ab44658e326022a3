// Numbers for people: a unit behind each, never more digits than mean something.
const GIB = 2 ** 30;

/** As services/sizing/units.py says it, to the last digit: a bar and the sentence under it must not differ. Ties go to the even digit, as
 * Python's do; 100 times a whole number of bytes over 2^30 is exact, so a tie is seen. */
export const gib = (bytes: number): string => {
  if (Math.abs(bytes) < GIB / 10) return `${tieToEven(bytes / 2 ** 20)} MiB`;
  return `${(tieToEven((bytes / GIB) * 100) / 100).toFixed(2)} GiB`;
};
const tieToEven = (value: number): number => {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
};
export const digits = (value: number): string =>
  value === 0 ? "0" : value >= 100 ? Math.round(value).toLocaleString("en") : value >= 10 ? value.toFixed(1) : value >= 0.1
    ? value.toFixed(2) : value.toPrecision(2);
export const seconds = (value: number): string => (value < 1 ? `${digits(value * 1000)} ms` : `${digits(value)} s`);
export const watts = (value: number): string => `${digits(value)} W`;
export const celsius = (value: number): string => `${Math.round(value)} °C`;
export const count = (value: number): string => value.toLocaleString("en");
export const px = (width: number, height: number): string => `${width}×${height} px`;
export const ago = (at: string): string => {
  const s = Math.max(0, (Date.now() - Date.parse(at)) / 1000);
  if (Number.isNaN(s)) return at;
  return s < 90 ? `${Math.round(s)} s ago` : s < 5400 ? `${Math.round(s / 60)} min ago` : s < 129600 ? `${Math.round(s / 3600)} h ago`
    : `${Math.round(s / 86400)} days ago`;
};
