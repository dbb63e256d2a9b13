export function Batches() {
  return <p class="soft">Nothing here yet.</p>;
}
