/** Ctrl-C: the first asks the run to close its books, the second leaves at once. */
import { EXIT } from './exit.ts';
import { note } from './output.ts';

/** Signals from now on abort the returned controller; call `restore` when there is nothing left to save. */
export function onInterrupt(): { readonly signal: AbortSignal; readonly restore: () => void } {
  const controller = new AbortController();
  const handle = (): void => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    note('Interrupted: closing the record. Press Ctrl-C again to leave at once.');
    controller.abort();
  };
  process.on('SIGINT', handle);
  process.on('SIGTERM', handle);
  const restore = (): void => {
    process.off('SIGINT', handle);
    process.off('SIGTERM', handle);
  };
  return { signal: controller.signal, restore };
}
