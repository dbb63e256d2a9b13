import type { Version } from "../server/types";

type Of = Pick<Version, "quarantined" | "damaged" | "alone">;

/** Whether an admin may have it asked again, as ever: what is wrong is not with its files. */
export function liftable({ quarantined, damaged, alone }: Of): boolean {
  return Boolean((quarantined && !damaged) || alone);
}

/** Why a version is not asked, or shares no batch; nothing where it is as all others. */
export function QuarantineBadge({ of }: { of: Of }) {
  const { quarantined, damaged, alone } = of;
  if (quarantined) return <span class="badge bad" title={quarantined}>{damaged ? "damaged" : "quarantined"}</span>;
  return alone ? <span class="badge warn" title={alone}>runs alone</span> : null;
}
