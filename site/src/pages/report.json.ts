/** The report the page was set from, byte for byte, beside the page. Empty when no run was published. */
import type { APIRoute } from 'astro';
import { readReport } from '../lib/report.ts';

export const GET: APIRoute = () => new Response(readReport(REPORT_SOURCE)?.json ?? 'null\n');
