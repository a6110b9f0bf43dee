/** The report that a page of an audit was set from, byte for byte, beside the page. */
import type { APIRoute } from 'astro';
import { readReports } from '../../lib/report.ts';

export function getStaticPaths() {
  return readReports(REPORT_SOURCE).map(({ report, json }) => ({ params: { id: report.run.id }, props: { json } }));
}

export const GET: APIRoute = ({ props }) => new Response(props.json as string);
