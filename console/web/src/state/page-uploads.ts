// Uploads of the operator's page: the newest accepted image is shown at once.
import { images } from "./images.svelte";
import { operator } from "./operator.svelte";
import { site } from "./site.svelte";
import { Uploads } from "./uploads.svelte";

export const pageUploads = new Uploads((imageId, fields) => {
  if (site.product && site.product !== fields.product) site.setProduct(fields.product);
  void images.loadDetail(imageId).then(() => operator.pick(imageId));
});
