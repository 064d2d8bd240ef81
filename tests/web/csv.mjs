// Print the CSV file of the page's results: argv has the module and the results as JSON.

import { pathToFileURL } from "node:url";

const [module, results] = process.argv.slice(2);
const { toCsv } = await import(pathToFileURL(module));
process.stdout.write(toCsv(JSON.parse(results)));
