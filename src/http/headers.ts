/** placeholder: owned by the h1 engine */
export class HeaderList {}
