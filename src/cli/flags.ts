export * from '../base/flags.ts'
