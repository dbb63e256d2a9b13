export function TaskView({ name }: { name: string }) {
  return <p class="soft">{name}</p>;
}
