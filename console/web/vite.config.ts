import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// LINESIDE_API points the development server at a running Lineside or at dev/server.mjs.
const api = process.env["LINESIDE_API"] ?? "http://127.0.0.1:5000";

export default defineConfig({
  // Absolute paths would break behind a prefix: index.html carries one <base href>, all else is
  // relative to it.
  base: "./",
  plugins: [svelte()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    proxy: { "/v1": { target: api, ws: true }, "/health": api, "/ready": api },
  },
  test: { include: ["tests/**/*.test.ts"], environment: "node" },
});
