/** Reads a text by the server's positions, which count characters: JavaScript's own count an emoji as two. */
export function reader(text: string): (start: number, end?: number) => string {
  const characters = Array.from(text);
  return (start, end) => characters.slice(start, end).join("");
}
