// Asking tasks.
export function Playground() {
  return <p class="soft">Nothing here yet.</p>;
}
