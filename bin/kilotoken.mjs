#!/usr/bin/env node
// Runs the compiled command line. The TypeScript beside this file becomes dist/bin/kilotoken.js.
import { existsSync } from 'node:fs';

const compiled = new URL('../dist/bin/kilotoken.js', import.meta.url);
if (existsSync(compiled)) {
  const { main } = await import(compiled.href);
  await main(process.argv);
} else {
  process.stderr.write('kilotoken is not built yet; run: npm run setup\n');
  process.exitCode = 3;
}
