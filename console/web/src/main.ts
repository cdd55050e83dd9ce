import { mount } from "svelte";
import App from "./App.svelte";
import { texts } from "./i18n/index.svelte";
import "./theme.css";

texts.start();
const target = document.getElementById("app");
if (!target) throw new Error("index.html has no #app");
mount(App, { target });
