/// <reference types="astro/client" />

/** Absolute path of the report.json or folder of runs to show; set in astro.config.ts. */
declare const REPORT_SOURCE: string;

/** Absolute path of suites/claims.json. */
declare const LEDGER: string;

/** Absolute path of the folder of node benchmarks to show, one bundle a subfolder; empty for none. */
declare const NODE_SOURCE: string;

/** Absolute path of the folder of kernel benches to show, one document a file; empty for none. */
declare const KERNELS_SOURCE: string;
