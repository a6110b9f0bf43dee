/** How a report names an engine: its card's name, the rule and the block, which together are unique in a run. */
import type { EngineCard } from '../engine.ts';

export function engineName(card: Pick<EngineCard, 'name' | 'rule' | 'blockSize'>): string {
  return `${card.name}/${card.rule}-b${card.blockSize}`;
}
