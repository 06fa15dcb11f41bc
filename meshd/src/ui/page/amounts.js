// What went by a port or a peer: through the daemon and by the kernel together.

import { rate } from "./daemon.js";
import { bits, bytes } from "./words.js";

const byKernel = (one, way) => one.kernel?.[`${way}_bytes`] ?? 0;

export const total = (one, way) => one.traffic[`${way}_bytes`] + byKernel(one, way);

// A table's cell. `key` is of this one alone.
export function moved(key, one, way) {
  const perSecond = rate(`${way}:${key}`, total(one, way));
  const kernel = byKernel(one, way);
  return { text: bytes(total(one, way)), sub: perSecond ? bits(perSecond * 8) : null, title: kernel ? `${bytes(kernel)} of it by the kernel` : null };
}
