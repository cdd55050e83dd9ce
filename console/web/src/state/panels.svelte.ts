// Which dialogs are open, so that keys and idle times know that a person is busy.

class Panels {
  upload = $state(false);
  operator = $state(false);
  help = $state(false);
  override = $state(false);
  types = $state(false);

  get any(): boolean {
    return this.upload || this.operator || this.help || this.override || this.types;
  }
}

export const panels = new Panels();
