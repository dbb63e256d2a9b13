/** A share, 0 to 1, as a bar; the number stands beside it. */
export function Bar({ share }: { share: number }) {
  const width = `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(1)}%`;
  return <svg class="bar" aria-hidden="true"><rect width={width} height="100%" /></svg>;
}
