export function Upload() {
  return <p class="soft">Nothing here yet.</p>;
}
