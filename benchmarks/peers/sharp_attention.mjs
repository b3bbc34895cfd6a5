// Prints where sharp's "attention" crops: the argument is a JSON list of [file, width, height], the result one of [left, top].
import { createRequire } from 'node:module'
import { resolve } from 'node:path'

const sharp = createRequire(`${resolve(process.env.SHARP_DIR)}/`)('sharp')
const places = []

for (const [file, width, height] of JSON.parse(process.argv[2])) {
  const crop = sharp(file).resize({ width, height, fit: 'cover', position: 'attention' }).raw()
  const { info } = await crop.toBuffer({ resolveWithObject: true })
  places.push([Math.abs(info.cropOffsetLeft ?? 0), Math.abs(info.cropOffsetTop ?? 0)])
}
console.log(JSON.stringify(places))
