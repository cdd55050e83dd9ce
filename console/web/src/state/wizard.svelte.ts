// A new product, from its name to its first verdict.
import * as api from "../api/calls";
import { Problem } from "../api/problem";
import type { Job, Mode, Product } from "../api/shapes";
import { images } from "./images.svelte";
import { site } from "./site.svelte";
import { Uploads } from "./uploads.svelte";

export const WIZARD_STEPS = ["name", "photos", "bank", "try", "policy", "done"] as const;
export type WizardStep = (typeof WIZARD_STEPS)[number];

const POLL_MS = 1000;
export const ENOUGH_NORMALS = 30;

export class Wizard {
  step = $state<WizardStep>("name");
  product = $state.raw<Product | null>(null);
  job = $state.raw<Job | null>(null);
  triedId = $state<string | null>(null);
  problem = $state.raw<Problem | null>(null);
  busy = $state(false);
  readonly trial = new Uploads((imageId) => {
    this.triedId = imageId;
    void images.loadDetail(imageId);
  });
  #poll: ReturnType<typeof setTimeout> | undefined;

  /** Goes on with a product that exists. */
  async resume(code: string): Promise<void> {
    await this.#run(async () => {
      this.product = await api.getProduct(code);
      this.step = "photos";
    });
  }

  /** Registers the product, or takes up the one that has this code. */
  async name(code: string, korean: string, english: string): Promise<void> {
    await this.#run(async () => {
      const known = await this.#existing(code);
      this.product =
        known ??
        (await api.putProduct(code, {
          revision: 0,
          display_name: korean,
          display_name_en: english || null,
        }));
      this.step = "photos";
      void site.load();
    });
  }

  async #existing(code: string): Promise<Product | null> {
    const products = await api.listProducts();
    const known = products.find((product) => product.product === code && !product.removed);
    return known ? api.getProduct(code) : null;
  }

  async build(): Promise<void> {
    const code = this.product?.product;
    if (!code) return;
    this.job = null;
    this.step = "bank";
    await this.#run(async () => {
      const { job_id } = await api.buildBank(code, site.operator || null);
      await this.#watch(job_id);
    });
  }

  async #watch(jobId: string): Promise<void> {
    for (;;) {
      const job = await api.getJob(jobId);
      this.job = job;
      if (job.state === "failed") return;
      if (job.state === "done") break;
      await new Promise((resolve) => {
        this.#poll = setTimeout(resolve, POLL_MS);
      });
    }
    await this.#activate();
  }

  /** Makes the new bank the one that judges, unless it already is. */
  async #activate(): Promise<void> {
    const version = this.job?.version;
    if (!version || !this.product) return;
    let product = await api.getProduct(this.product.product);
    if (product.active_bank !== version) {
      const body = { revision: product.revision, active_bank: version };
      product = await api.putProduct(product.product, body);
    }
    this.product = product;
  }

  tryPhoto(files: readonly File[]): void {
    const product = this.product?.product;
    const file = files[0];
    if (!product || !file) return;
    this.triedId = null;
    for (const item of this.trial.items) this.trial.dismiss(item.id);
    this.trial.add([file], { product, purpose: "setup", anomaly: "force" });
  }

  async decidePolicy(anomaly: Mode, report: Mode): Promise<void> {
    await this.#run(async () => {
      if (!this.product) return;
      const { product: code, revision } = await api.getProduct(this.product.product);
      this.product = await api.putProduct(code, { revision, policy: { anomaly, report } });
      this.step = "done";
      void site.load();
    });
  }

  stop(): void {
    clearTimeout(this.#poll);
  }

  async #run(act: () => Promise<void>): Promise<void> {
    this.busy = true;
    this.problem = null;
    try {
      await act();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.problem = error;
    } finally {
      this.busy = false;
    }
  }
}
