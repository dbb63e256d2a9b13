export function length(vector: number[]): number {
  return Math.hypot(...vector);
}

/** The cosine of the angle between two vectors; null where one of them has no direction. */
export function cosine(one: number[], other: number[]): number | null {
  const lengths = length(one) * length(other);
  return lengths ? one.reduce((sum, value, i) => sum + value * (other[i] ?? 0), 0) / lengths : null;
}
