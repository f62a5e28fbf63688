/**
 * Attaches programs by pinned links. A link that an earlier agent has pinned gets the new program in place of its own,
 * with no moment in between in which neither runs; where that cannot be done, the new program is attached beside the old
 * one, which then goes: for that moment both run.
 */
import { closeSync, existsSync } from 'node:fs'
import { describeError } from '../base/errors.ts'
import type { Addon } from './addon.ts'
import type { BpfDirectory, PinKind } from './bpf-directory.ts'

/** Where a program goes. */
export interface Attachment {
  readonly kind: PinKind
  /** Of the pin. */
  readonly name: string
  readonly programFd: number
  /** Descriptor of the cgroup directory or the netns. */
  readonly targetFd: number
  /** What the kernel calls the target: the id of the cgroup, the inode number of the netns. */
  readonly target: bigint
  readonly attachType: number
}

export class Attachments {
  /** Why a link could not be given a new program; empty while each one could. */
  updateFailure = ''
  private readonly addon: Addon
  private readonly directory: BpfDirectory

  constructor(addon: Addon, directory: BpfDirectory) {
    this.addon = addon
    this.directory = directory
  }

  /** Returns a descriptor of the link, the caller's. Throws the system call's error. */
  attach(attachment: Attachment): number {
    const taken = this.takeOver(attachment)
    if (taken >= 0) return taken
    const { addon, directory } = this
    const { kind, name, programFd, targetFd, attachType } = attachment
    const fd = addon.attachLink(programFd, targetFd, attachType)
    try {
      directory.replacePin(kind, name, fd)
    } catch (error) {
      closeSync(fd)
      throw error
    }
    return fd
  }

  /** -1 when there is no link that can be used. */
  private takeOver({ kind, name, programFd, target }: Attachment): number {
    const { addon, directory } = this
    const path = directory.pathOf(kind, name)
    if (!existsSync(path)) return -1
    const fd = addon.openPinned(path)
    try {
      // Of another cgroup than it is now, or of one that is gone.
      if (addon.describeLink(fd).target === target) {
        addon.updateLink(fd, programFd)
        return fd
      }
    } catch (error) {
      this.updateFailure = describeError(error)
    }
    closeSync(fd)
    return -1
  }
}
