#!/usr/bin/env node
// Runs the compiled command line. The TypeScript beside this file becomes dist/bin/kilotoken.js.
import { existsSync } from 'node:fs';

const compiled = new URL('../dist/bin/kilotoken.js', import.meta.url);

function notReady(what) {
  process.stderr.write(`kilotoken: ${what}; run: npm run setup\n`);
  process.exit(3);
}

if (!existsSync(compiled)) notReady('it is not built yet');
const { main } = await import(compiled.href).catch((error) => {
  if (error.code === 'ERR_MODULE_NOT_FOUND') notReady('a package it needs is not installed');
  throw error;
});
await main(process.argv);
