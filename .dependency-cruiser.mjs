/** Who may import whom: the room table of DESIGN.md, checked. */
const only = (name, from, allowed, comment) => ({
  name,
  comment,
  severity: 'error',
  from: { path: `^${from}/` },
  to: { path: '^(core|reference|kernels|native|harness|suites|checkpoints|site|bin|scripts|test)/', pathNot: allowed },
});

export default {
  forbidden: [
    only(
      'harness-sees-only-itself',
      'harness',
      '^harness/',
      'The harness knows nothing of the implementation it judges.',
    ),
    {
      name: 'native-sees-the-seam-as-types',
      comment: 'native/ may import types from harness/engine.ts and nothing else of the harness.',
      severity: 'error',
      from: { path: '^native/' },
      to: { path: '^(harness|bin|scripts|site|test|suites)/', pathNot: '^harness/engine\\.ts$' },
    },
    {
      name: 'native-imports-the-seam-only-as-types',
      severity: 'error',
      from: { path: '^native/' },
      to: { path: '^harness/engine\\.ts$', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'only-bin-knows-both-sides',
      severity: 'error',
      from: { path: '^(harness|native|site)/' },
      to: { path: '^bin/' },
    },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true, dependencyTypesNot: ['type-only'] } },
    {
      name: 'no-undeclared-packages',
      severity: 'error',
      from: { pathNot: '^test/' },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown'] },
    },
    { name: 'nothing-imports-tests', severity: 'error', from: { pathNot: '^test/' }, to: { path: '^test/' } },
    {
      name: 'no-dev-packages-at-run-time',
      severity: 'error',
      from: { path: '^(bin|harness|native)/' },
      to: { dependencyTypes: ['npm-dev'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^(dist|build|node_modules|runs)/' },
    tsPreCompilationDeps: 'specify',
    tsConfig: { fileName: 'tsconfig.json' },
  },
};
