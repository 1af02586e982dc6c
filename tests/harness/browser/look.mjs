// Opens pages in Chromium as a list of JSON looks says, and prints what was seen, a line for each.
//
// A look is {url, theme, width, script, headers, form, file}: `script` says whether the page may
// run any, `form` fills fields by their names and sends the form, `file` is the picture to write.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf-8");
const LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--font-render-hinting=none",
  ],
});

async function look({ url, theme, width, script, headers, form, file }) {
  const context = await browser.newContext({
    colorScheme: theme,
    viewport: { width, height: 900 },
    javaScriptEnabled: script,
    extraHTTPHeaders: headers,
    locale: "fr-FR",
  });
  const page = await context.newPage();
  const errors = [];
  const requests = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) errors.push(message.text());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("requestfailed", (request) => errors.push(`${request.url()} failed`));
  page.on("request", (request) => requests.push(request.url()));
  let response = await page.goto(url);
  if (form) {
    for (const [name, value] of Object.entries(form)) await page.fill(`[name=${name}]`, value);
    [response] = await Promise.all([page.waitForNavigation(), page.click("main button")]);
  }
  await page.waitForLoadState("networkidle");
  const seen = await page.evaluate(() => ({
    url: location.href,
    title: document.title,
    text: document.body.innerText,
    lang: document.documentElement.lang,
    headings: [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((one) => [
      Number(one.localName[1]),
      one.innerText,
    ]),
    tables: Object.fromEntries(
      [...document.querySelectorAll("table")].map((table) => [
        table.caption.textContent,
        [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim())),
      ]),
    ),
    tiles: Object.fromEntries(
      [...document.querySelectorAll("dl > div")].map((tile) => [
        tile.querySelector("dt").textContent.trim(),
        tile.querySelector("dd strong").textContent.trim(),
      ]),
    ),
    images: [...document.images].map((one) => [one.currentSrc, one.naturalWidth]),
    // What is shown of the page without any scrolling to the side: right edges, in CSS pixels.
    edges: [...document.querySelectorAll("figure img, th")]
      .filter((one) => one.offsetWidth > 0)
      .map((one) => [one.alt ?? one.innerText, Math.round(one.getBoundingClientRect().right)]),
    hints: [...document.querySelectorAll(".hint")].filter((one) => one.offsetHeight > 0).length,
    wide: [...document.querySelectorAll(".scroll")].filter(
      (one) => one.scrollWidth > one.clientWidth,
    ).length,
    background: getComputedStyle(document.body).backgroundColor,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  }));
  const violations = [];
  if (script) {
    for (const open of [false, true]) {
      await page.evaluate((all) => {
        for (const one of document.querySelectorAll("details")) one.open = all;
      }, open);
      await page.evaluate(axe);
      const found = await page.evaluate((levels) => axe.run({ runOnly: levels }), LEVELS);
      for (const { id, nodes } of found.violations) {
        violations.push(`${id}: ${nodes.map((node) => node.html).join(" ")}`);
      }
      if (!found.passes.some(({ id }) => id === "color-contrast")) violations.push("no contrast");
    }
    await page.evaluate(() => {
      for (const one of document.querySelectorAll("details")) one.open = false;
    });
  }
  if (file) await page.screenshot({ path: file, fullPage: true });
  await context.close();
  return { status: response.status(), ...seen, errors, requests, violations };
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify(await look(JSON.parse(line))));
  } catch (error) {
    console.log(JSON.stringify({ failed: String(error) }));
  }
}
await browser.close();
