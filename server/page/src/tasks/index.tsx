export function Tasks() {
  return <p class="soft">Nothing here yet.</p>;
}
