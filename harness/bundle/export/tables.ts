/** A run as two flat tables, for notebooks and databases: one row a round, and one row a committed token. */
import { join } from 'node:path';
import { makeFolder } from '../disk.ts';
import type { StoredRun } from '../reader.ts';
import { type Cell, type ColumnType, ParquetWriter } from './parquet.ts';

const SESSION: readonly ColumnType[] = [
  { name: 'run', type: 'string' },
  { name: 'session', type: 'string' },
  { name: 'phase', type: 'string' },
  { name: 'arm', type: 'string' },
  { name: 'engine', type: 'string' },
  { name: 'prompt', type: 'string' },
  { name: 'scenario', type: 'string' },
  { name: 'repeat', type: 'int64' },
];

const ROUND_COLUMNS: readonly ColumnType[] = [
  ...SESSION,
  { name: 'round', type: 'int64' },
  { name: 'prefill', type: 'boolean' },
  { name: 'committed', type: 'int64' },
  { name: 'drafted', type: 'int64' },
  { name: 'accepted', type: 'int64' },
  { name: 'finish', type: 'string', optional: true },
  { name: 't_ns', type: 'double', optional: true },
  { name: 'wall_ns', type: 'double' },
  { name: 'engine_ns', type: 'double' },
  { name: 'engine_draft_ns', type: 'double' },
  { name: 'engine_verify_ns', type: 'double' },
  { name: 'device_ns', type: 'double', optional: true },
];

const TOKEN_COLUMNS: readonly ColumnType[] = [
  ...SESSION,
  { name: 'round', type: 'int64' },
  { name: 'position', type: 'int64' },
  { name: 'token', type: 'int64' },
  { name: 'accepted_draft', type: 'boolean' },
];

/** Writes rounds.parquet and tokens.parquet into `directory`; neither may exist. Throws EnvironmentError. */
export function exportTables(run: StoredRun, directory: string): string[] {
  makeFolder(directory);
  const paths = ['rounds.parquet', 'tokens.parquet'].map((name) => join(directory, name));
  const rounds = new ParquetWriter(paths[0]!, ROUND_COLUMNS);
  const tokens = new ParquetWriter(paths[1]!, TOKEN_COLUMNS);
  for (const { row, rounds: rows } of run.sessions.values()) {
    const session: Cell[] = [
      run.manifest.id,
      row.session,
      row.phase,
      row.arm,
      row.engine,
      row.prompt,
      row.scenario,
      row.repeat,
    ];
    let position = 0;
    for (const round of rows) {
      rounds.append([
        ...session,
        round.index,
        round.kind === 'prefill',
        round.committed.length,
        round.drafted.length,
        round.accepted,
        round.finish,
        round.t_ns ?? null,
        round.wallNs,
        round.ns.total,
        round.ns.draft,
        round.ns.verify,
        round.deviceNs?.total ?? null,
      ]);
      round.committed.forEach((token, i) => {
        tokens.append([...session, round.index, position, token, i < round.accepted]);
        position += 1;
      });
    }
  }
  rounds.close();
  tokens.close();
  return paths;
}
